"""Grow astrocytes, each by itself: what is written stays, and what fails is named."""

import json
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from nipype_blm.errors import InputError, count, join_some, show
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.ngv.circuit.hdf5 import open_hdf5
from nipype_blm.ngv.environment.companion import SCRIPTS, CompanionError, Ended, run_command
from nipype_blm.ngv.running import StageError
from nipype_blm.progress import advance
from nipype_blm.tasks.pieces import cut_evenly

UNIT = "astrocytes"  # of progress
PLAN_FILE = "synthesis.json"
DONE = "_DONE"  # as ArchNGV's workflow marks a folder of morphologies that is complete
_STAMP = "_STAMP"  # of what morphologies are made from
_FAILED = "failed_cells.tsv"
MOST_IN_BUNDLE = 50  # cells take between seconds and minutes
# Seeded anew, a cell fails the same way; only what a machine has done may go better.
_OF_MACHINE = ("OSError", "BlockingIOError", "MemoryError", "PermissionError", "TimeoutError")
_MOST_SHOWN = 10
# Of a morphology: a name that is no path, and none of a file that is hidden.
_NAME = re.compile(r"[^./\0\s][^/\0\n]*")


class Inputs(NamedTuple):
    """The files that morphologies are made from."""

    config: Path
    tns_distributions: Path
    tns_parameters: Path
    tns_context: Path
    er_data: Path
    astrocytes: Path
    microdomains: Path
    gliovascular_connectivity: Path
    neuroglial_connectivity: Path
    endfeet_meshes: Path
    neuronal_connectivity: Path


class Failure(NamedTuple):
    """A cell that could not be grown."""

    name: str
    error: str


@dataclass(frozen=True)
class SynthesisPlan:
    """What those have to know that grow some of the cells."""

    inputs: Mapping[str, str]  # paths by name
    seed: int
    names: Sequence[str]  # of all cells
    bundles: Sequence[Sequence[int]]  # numbers of those that are to be grown
    folder: str
    stamp: str  # of what they are made from
    retries: int
    token: str = ""  # of this attempt: nodes with the inputs of an earlier one would not run again

    def find(self, index: int) -> Path:
        """Return the file of a cell."""
        return Path(self.folder, f"{self.names[index]}.h5")

    def write(self, path: Path) -> None:
        """Write the plan."""
        write_if_changed(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan."""
        return cls(**json.loads(path.read_text()))


def plan_synthesis(
    inputs: Inputs,
    seed: int,
    folder: Path,
    versions: str,
    parallel_nodes: int = 1,
    retries: int = 2,
) -> SynthesisPlan:
    """See which cells are still to be grown, and cut them into bundles.

    Parameters
    ----------
    inputs : Inputs
    seed : int
        Each cell has its own, made of this and its number.
    folder : Path
        For morphologies.  Those that were made from other inputs, or are damaged, are removed.
    versions : str
        What tells the environment from others, see `Environment.stamp`.
    parallel_nodes : int
        Nodes that run at the same time.
    retries : int
        How often a cell is tried again whose machine failed.

    Raises
    ------
    InputError
        If an astrocyte has no domain, or the folder has morphologies that were not written here.
    """
    names = read_names(inputs.astrocytes)
    check_domains(inputs.microdomains, names)
    stamp = _stamp(inputs, seed, versions)
    _forget_others(folder, stamp)
    missing = [i for i, name in enumerate(names) if not _is_whole(folder / f"{name}.h5")]
    return SynthesisPlan(
        {name: str(path) for name, path in inputs._asdict().items()},
        seed,
        names,
        # Nipype runs no list of no node.
        cut_evenly(missing, parallel_nodes, MOST_IN_BUNDLE) or [[]],
        str(folder),
        stamp,
        retries,
        secrets.token_hex(8) if missing else "",
    )


def _is_whole(path: Path) -> bool:
    """Say whether a cell is written; one that cannot be read is removed, to be grown again."""
    try:
        with open_hdf5(path) as file:  # without a lock, which not all disks have
            is_whole = {"points", "structure"} <= file.keys()
    except InputError:
        is_whole = False
    if not is_whole:
        path.unlink(missing_ok=True)
    return is_whole


def count_cells(plan_file: Path) -> tuple[int, int]:
    """Return how many cells there are, and how many were grown before."""
    plan = SynthesisPlan.read(plan_file)
    return len(plan.names), len(plan.names) - sum(map(len, plan.bundles))


def _stamp(inputs: Inputs, seed: int, versions: str) -> str:
    states = [str(read_state(path)[:2]) for path in inputs[1:]]
    return fingerprint(inputs.config.read_bytes(), *states, str(seed), versions)


def _forget_others(folder: Path, stamp: str) -> None:
    """Remove morphologies that were made from something else."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / _STAMP
    if not noted.is_file() and any(folder.glob("*.h5")):
        raise InputError(
            f"{folder} has morphologies that were not grown here; nobody knows what they are made "
            "from.  Give the circuit another folder, or move them away."
        )
    if not noted.is_file() or noted.read_text() != stamp:
        for path in (folder / DONE, *folder.glob("*.h5")):
            path.unlink(missing_ok=True)
    for path in folder.glob(".*.part"):  # of cells that were interrupted
        shutil.rmtree(path, ignore_errors=True)
    write_if_changed(noted, stamp.encode())


def read_names(astrocytes: Path) -> list[str]:
    """Return the names of morphologies, in the order of the cells.

    Raises
    ------
    InputError
        If there is none, or one cannot be the name of a file of its own.
    """
    with open_hdf5(astrocytes) as file:
        (population,) = file["nodes"].values()
        names = [name.decode() for name in population["0/morphology"][()]]
    if not names:
        raise InputError(
            f"{astrocytes} has no astrocyte: the density of the atlas gives none in this region; "
            "is it per mm^3, and the voxels in um?"
        )
    refused = [name for name in names if not _NAME.fullmatch(name)]
    refused += [name for name, n in Counter(names).items() if n > 1]
    if refused:
        raise InputError(
            f"{astrocytes} has {join_some(map(show, refused), _MOST_SHOWN)} as morphology of an "
            "astrocyte; each needs a name of its own, which becomes that of a file."
        )
    return names


def check_domains(microdomains: Path, names: Sequence[str]) -> None:
    """Refuse domains of which an astrocyte has none.

    Raises
    ------
    InputError
        With the names of these.
    """
    import numpy as np

    with open_hdf5(microdomains) as file:
        n_points = np.diff(file["offsets/points"][()])
    if len(n_points) != len(names):
        raise InputError(
            f"{microdomains} has {count(len(n_points), 'domain')}, and there are {len(names)} "
            "astrocytes; these files are not of one circuit."
        )
    without = [name for name, n in zip(names, n_points, strict=True) if not n]
    if without:
        raise InputError(
            f"{join_some(without, _MOST_SHOWN)} {'has' if len(without) == 1 else 'have'} no domain "
            f"in {microdomains}: somata are outside of the region that domains are cut to; is it "
            "the region, and the mask, in which cells were placed?"
        )


def synthesize(python: Path, plan_file: Path, bundle: int, logs: Path) -> list[Failure]:
    """Grow the cells of a bundle that are not there; return those that could not be grown.

    Parameters
    ----------
    python : Path
        Of the environment of ArchNGV, of which a process is kept.
    plan_file : Path
    bundle : int
    logs : Path
        Folder for what is said of cells that fail.
    """
    plan = SynthesisPlan.read(plan_file)
    failures = []
    for index in plan.bundles[bundle]:
        if not plan.find(index).is_file():
            ended = _grow(python, plan_file, plan, index, logs)
            if ended.code and not plan.find(index).is_file():  # another run may have grown it
                failures.append(Failure(plan.names[index], ended.describe()))
        advance(UNIT, 1)
    return failures


def _grow(python: Path, plan_file: Path, plan: SynthesisPlan, index: int, logs: Path) -> Ended:
    log = logs / f"{plan.names[index]}.log"
    ended = Ended(1, "it was not tried")
    for _ in range(plan.retries + 1):
        # Nobody else's: another run may grow the same cell.
        scratch = Path(plan.folder, f".{plan.names[index]}.{secrets.token_hex(8)}.part")
        scratch.mkdir()
        log.unlink(missing_ok=True)
        try:
            argv = [str(SCRIPTS / "synthesize.py"), str(plan_file), str(index)]
            ended = run_command(python, argv, scratch, log)
            if not ended.code:
                _keep(scratch / plan.find(index).name, plan, index)
                log.unlink(missing_ok=True)
                break
        except FileNotFoundError as error:  # of a scratch folder: another run has begun
            ended = Ended(1, f"OSError: {error}")
        except CompanionError as error:
            ended = Ended(1, f"OSError: {error}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if ended.code > 0 and not ended.error.startswith(_OF_MACHINE):
            break
    return ended


def _keep(path: Path, plan: SynthesisPlan, index: int) -> None:
    """Move a cell to where it belongs, unless that is of other inputs by now."""
    if Path(plan.folder, _STAMP).read_text() != plan.stamp:
        raise StageError(f"{plan.folder} is that of another run now, which began after this one.")
    if not plan.find(index).is_file():
        path.replace(plan.find(index))


def gather(plan_file: Path, failures: Sequence[Failure]) -> Path:
    """Mark the morphologies as complete, once all are there; return that mark.

    Raises
    ------
    StageError
        With the names of cells that are missing, and why; all are in a table.
    """
    plan = SynthesisPlan.read(plan_file)
    folder = Path(plan.folder)
    table = folder.parent / _FAILED
    missing = [name for i, name in enumerate(plan.names) if not plan.find(i).is_file()]
    if not missing:
        table.unlink(missing_ok=True)
        write_if_changed(folder / DONE, (folder / _STAMP).read_bytes())
        return folder / DONE
    (folder / DONE).unlink(missing_ok=True)
    reasons: dict[str, Any] = dict.fromkeys(missing, "it was lost")
    reasons |= {
        each.name: " ".join(each.error.split()) for each in failures if each.name in reasons
    }
    rows = [f"{name}\t{reason}\n" for name, reason in reasons.items()]
    write_if_changed(table, "".join(["cell\terror\n", *rows]).encode())
    some = join_some((f"{name} ({reason})" for name, reason in reasons.items()), _MOST_SHOWN)
    raise StageError(
        f"{count(len(missing), 'astrocyte')} of {len(plan.names)} could not be grown, without "
        f"which connections cannot be completed: {some}.  All are in {table}; the same command "
        "tries these again, and keeps the others."
    )
