"""What the files of a computed circuit hold, to compare one with another."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Made of the times of files, by which a change of them is seen.
STAMPS = {"morphologies/_STAMP", "morphologies/_DONE"}


def read_circuit(out: Path) -> dict[str, Any]:
    """Return what each file in the folder `build` holds, by its name; stamps only by theirs."""
    build = out / "build"
    files = {str(path.relative_to(build)): path for path in build.rglob("*") if path.is_file()}
    return {name: None if name in STAMPS else read_file(path) for name, path in files.items()}


def read_file(path: Path) -> Any:
    """Return the datasets and attributes of an HDF5 file, whose times differ; else its bytes."""
    if path.suffix != ".h5":
        return path.read_bytes()
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, each: found.update({name: _freeze(each)}))
        found["/"] = _freeze(file)
    return found


def _freeze(each: Any) -> Any:
    attributes = {key: np.asarray(value).tolist() for key, value in each.attrs.items()}
    if not isinstance(each, h5py.Dataset):
        return attributes
    values = each[()]
    if each.dtype.hasobject:  # text
        return attributes, each.shape, np.asarray(values).tolist()
    return attributes, each.shape, each.dtype.str, np.asarray(values).tobytes()


def list_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of files that differ, or are in one circuit alone."""
    return [name for name in sorted(one.keys() | other.keys()) if _differ(name, one, other)]


def _differ(name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return name not in one or name not in other or one[name] != other[name]
