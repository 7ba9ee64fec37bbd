"""Make an example of what a circuit starts from, by the Python of ArchNGV's environment."""

import secrets
import shutil
import tempfile
from pathlib import Path

from nipype_blm.errors import InputError, Problems, shorten
from nipype_blm.ngv.environment.companion import SCRIPTS, CompanionError, run_command

# For an astrocyte or two; and for what is an example, with 340 of them.
SIDES_UM = 50.0, 300.0
_SCRIPT = SCRIPTS / "make_example.py"


def make_example(
    folder: Path,
    ngv_python: Path,
    *,
    side_um: float = 100.0,
    n_neurons: int | None = None,
    n_synapses: int = 20_000,
    seed: int = 0,
) -> Path:
    """Make a small circuit's input: an atlas, vessels, neurons with synapses, and settings.

    The same values give the same content.  `README.md` in the folder tells what it is made from.

    Parameters
    ----------
    folder : Path
        That it appears in, all at once; it must be new, or empty.
    ngv_python : Path
        The Python of the environment that ArchNGV is installed in.
    side_um : float
        Side of the cube of tissue, which has 12.5 astrocytes in each 100 um cubed.
    n_neurons : int, optional
        By default as many as cortex has, 80 in each 100 um cubed.
    n_synapses : int
        Far fewer than cortex has, which would be one in each um cubed.
    seed : int
        Of all random numbers here, and in the settings for ArchNGV.

    Returns
    -------
    folder : Path

    Raises
    ------
    InputError
        If a number is too small, something is in the folder already, or the example cannot be
        made in that environment.
    """
    _check(folder, side_um, n_neurons, n_synapses, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    numbers = {"side": side_um, "neurons": n_neurons, "synapses": n_synapses, "seed": seed}
    options = [f"--{name}={value}" for name, value in numbers.items() if value is not None]
    try:
        _run(ngv_python, [str(_SCRIPT), str(part), *options], folder.parent)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _check(folder: Path, side_um: float, n_neurons: int | None, n_synapses: int, seed: int) -> None:
    problems = Problems()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.add(None, "There is something in {folder} already; name another.", folder=folder)
    least, most = SIDES_UM
    if not least <= side_um <= most:
        problems.add(
            None,
            "The side is {side} um; it can be {least:g} to {most:g} um.",
            side=side_um,
            least=least,
            most=most,
        )
    for name, number, fewest in (
        ("neurons", n_neurons, 2),  # a synapse has two ends
        ("synapses", n_synapses, 1),
        ("seed", seed, 0),
    ):
        if number is not None and number < fewest:
            problems.add(
                None,
                "{what} is {number}; give {least} or more.",
                what=name,
                number=number,
                least=fewest,
            )
    if seed >= 2**32:
        problems.add(None, "seed is {seed}; ArchNGV takes those below 2**32.", seed=seed)
    if problems:
        raise InputError(problems)


def _run(ngv_python: Path, arguments: list[str], folder: Path) -> None:
    """Run the script; its last line tells what went wrong."""
    with tempfile.NamedTemporaryFile() as log:
        try:
            ended = run_command(ngv_python, arguments, folder, Path(log.name))
        except CompanionError as error:
            raise InputError(str(error)) from error
    if ended.code:
        raise InputError(f"The example could not be made: {shorten(ended.describe())}")
