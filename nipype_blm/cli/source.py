"""What is given as SOURCE and OUT of a command, where it cannot be that: one sentence each."""

from pathlib import Path

from nipype_blm.errors import InputError

_CONFIGURATION = (".yml", ".yaml", ".json")
_TABLE = (".csv", ".tsv", ".txt", ".xls", ".xlsx", ".ods", ".mat", ".con", ".fsf")
_EXPECTED = "expected a configuration, CONFIG.yml, which names the images (Y_files) and a table (X)"


def check_places(source: Path, out: str) -> None:
    """Refuse a source that no run can be made of, and a place that is none for results.

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
    fault = _find_fault(source)
    if fault is not None:
        raise InputError(f"SOURCE {source} {fault}.")
    if is_raw_bids(folder):
        raise InputError(
            f"OUT {folder} is a BIDS data set, among whose images no results belong; choose a "
            f"folder of their own, such as {folder / 'derivatives' / 'nipype_blm'}."
        )


def is_raw_bids(folder: Path) -> bool:
    """Return whether a folder is a BIDS data set with folders of subjects."""
    return (folder / "dataset_description.json").is_file() and any(folder.glob("sub-*/"))


def _find_fault(source: Path) -> str | None:
    """Return why a source is none, and what to do."""
    from nipype_blm.data.kinds import is_image_path

    if source.is_dir() and (source / "inputs.yml").is_file():
        return f"is a folder of results; give {source / 'inputs.yml'} to fit that model again"
    if source.is_dir():
        what = "is a BIDS data set" if is_raw_bids(source) else "is a folder"
        return f"{what}, of which no run can be made; {_EXPECTED}"
    if is_image_path(source):
        return f"is an image; {_EXPECTED}"
    if source.suffix.lower() in _TABLE:
        return f"is a table or a list, of which alone no run can be made; {_EXPECTED}"
    return None
