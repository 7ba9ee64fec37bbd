"""What is given as SOURCE and OUT of a command, where it cannot be that: one sentence each."""

from pathlib import Path

from nipype_blm.errors import InputError
from nipype_blm.io.bids import DESCRIPTION, is_data_set

_CONFIGURATION = (".yml", ".yaml", ".json")
_TABLE = (".csv", ".tsv", ".txt", ".xls", ".xlsx", ".ods", ".mat", ".con", ".fsf")
_FEAT = (".gfeat", ".feat")
_EXPECTED = (
    "expected a BIDS data set or a table of covariates, with --formula; or a configuration, "
    "CONFIG.yml; or a group analysis of FEAT, group.gfeat"
)


def check_places(source: Path, out: str, is_formula_given: bool = False) -> str:
    """Refuse a source that no run can be made of, and a place that is none for results.

    Returns
    -------
    kind : str
        ``bids``, ``feat``, ``table`` or ``configuration``.

    Raises
    ------
    InputError
    """
    folder = Path(out).expanduser()
    if folder.is_file():
        is_swapped = folder.suffix in _CONFIGURATION and not source.is_file()
        advice = (
            f"SOURCE comes first: nipype-blm fit {folder} {source}"
            if is_swapped
            else "give a folder for the results"
        )
        raise InputError(f"OUT {folder} is a file; {advice}.")
    source = source.expanduser()
    kind = find_kind(source, is_formula_given)
    if (folder / DESCRIPTION).is_file() and any(folder.glob("sub-*/")):
        raise InputError(
            f"OUT {folder} is a BIDS data set, among whose images no results belong; choose a "
            f"folder of their own, such as {folder / 'derivatives' / 'nipype_blm'}."
        )
    return kind


def find_kind(source: Path, is_formula_given: bool) -> str:
    """Return what a source is: ``bids``, ``feat``, ``table`` or ``configuration``.

    Raises
    ------
    InputError
        If it is none, with what to do.
    """
    from nipype_blm.data.kinds import is_image_path

    fault = None
    if source.is_dir() and (source / "inputs.yml").is_file():
        fault = f"is a folder of results; give {source / 'inputs.yml'} to fit that model again"
    elif source.is_dir() and is_data_set(source):
        return "bids"
    elif source.is_dir() and (source.suffix in _FEAT or any(source.glob("cope*.feat"))):
        return "feat"
    elif source.is_dir():
        fault = f"is a folder, but no BIDS data set: it has no sub-*; {_EXPECTED}"
    elif is_image_path(source):
        fault = f"is an image; {_EXPECTED}"
    elif source.suffix.lower() in _TABLE or (
        is_formula_given and source.suffix.lower() not in _CONFIGURATION
    ):
        return "table"
    if fault is not None:
        raise InputError(f"SOURCE {source} {fault}.")
    return "configuration"
