"""Find the files of a BIDS data set, and what their names say."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, Problem

# Long and short names of entities: those of the BIDS schema, in the order of file names, and
# those that programs write of statistics.
ENTITIES = {
    "subject": "sub",
    "template": "tpl",
    "session": "ses",
    "cohort": "cohort",
    "sample": "sample",
    "task": "task",
    "tracksys": "tracksys",
    "acquisition": "acq",
    "nucleus": "nuc",
    "volume": "voi",
    "ceagent": "ce",
    "tracer": "trc",
    "stain": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "flip": "flip",
    "inversion": "inv",
    "mtransfer": "mt",
    "part": "part",
    "processing": "proc",
    "hemisphere": "hemi",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "atlas": "atlas",
    "segmentation": "seg",
    "scale": "scale",
    "resolution": "res",
    "density": "den",
    "label": "label",
    "description": "desc",
    "contrast": "contrast",
    "stat": "stat",
}
LONG_NAMES = {short: name for name, short in ENTITIES.items()}
# Entities whose labels are numbers, so that 1 and 01 are the same.
INDEXES = frozenset({"run", "echo", "flip", "inversion", "split", "chunk"})
DESCRIPTION = "dataset_description.json"
# What else a file is told by.
PARTS = ("suffix", "extension", "datatype")

# How columns of tables are called that have labels of entities, without case and underscores.
_COLUMNS = {
    **dict.fromkeys(("participantid", "participant", "subjectid", "subject"), "subject"),
    **dict.fromkeys(("subjid", "subj", "subid", "sub", "id", "subjectlabel"), "subject"),
    **dict.fromkeys(("sessionid", "session", "sesid", "ses"), "session"),
    **dict.fromkeys(("taskid", "taskname", "task"), "task"),
    **dict.fromkeys(("runid", "run"), "run"),
    **dict.fromkeys(("acquisitionid", "acquisition", "acq"), "acquisition"),
}
_DATATYPES = frozenset(
    {"anat", "func", "dwi", "fmap", "perf", "pet", "beh", "meg", "eeg", "ieeg", "nirs", "mrs"}
)
_NOT_ENTERED = frozenset({"sourcedata", "derivatives", "work", "code", "figures", "log", "logs"})
_EXTENSION = re.compile(r"(\.[a-zA-Z][a-zA-Z0-9]*)+$")


class BidsFile(NamedTuple):
    """A file, and what its name says."""

    path: Path
    entities: Mapping[str, str]  # by long names; those that BIDS does not know as they are
    suffix: str  # such as bold or statmap
    extension: str  # such as .nii.gz
    datatype: str  # the folder it lies in, such as func; "" for any other

    def tell(self, name: str) -> str | None:
        """Return the label of an entity, or the suffix, extension or data type; None: none."""
        if name in PARTS:
            return str(getattr(self, name)) or None
        return self.entities.get(name)


def name_entity(column: str) -> str | None:
    """Return the entity whose labels a column of a table has, by its name; None: another."""
    return _COLUMNS.get(re.sub(r"[_\W]+", "", column).casefold())


def strip_label(label: str, entity: str) -> str:
    """Return a label without the short name of its entity, as 01 of sub-01."""
    prefix = f"{ENTITIES.get(entity, entity)}-"
    return label[len(prefix) :] if label.casefold().startswith(prefix) else label


def split_name(name: str) -> tuple[dict[str, str], str, str]:
    """Return entities, suffix and extension of the name of a file.

    An underscore within a label, which BIDS does not allow, stays there.
    """
    found = _EXTENSION.search(name)
    extension = found[0] if found else ""
    *parts, last = name[: len(name) - len(extension)].split("_")
    suffix = "" if "-" in last else last
    entities: dict[str, str] = {}
    key = ""
    for part in [*parts, last] if "-" in last else parts:
        short, is_entity, label = part.partition("-")
        if is_entity and short.isalnum():
            key = LONG_NAMES.get(short, short)
            entities.setdefault(key, label)
        elif key:
            entities[key] += f"_{part}"
    return entities, suffix, extension


def index_tree(root: Path) -> list[BidsFile]:
    """Return the files below a folder whose names have entities, in the order of their paths.

    Hidden folders are left out, and those with sources, work, code, figures, logs, and
    derivatives of this data set.  Links are followed, but to no folder twice.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """
    found: list[tuple[str, str, str]] = []  # path, name, and data type
    folders, seen = [str(root)], set[tuple[int, int]]()
    while folders:
        _list_folder(folders.pop(), found, folders, seen)
    files = []
    for path, name, datatype in sorted(found):
        entities, suffix, extension = split_name(name)
        if entities and suffix and extension:
            files.append(BidsFile(Path(path), entities, suffix, extension, datatype))
    return files


def _list_folder(
    folder: str,
    out_files: list[tuple[str, str, str]],
    out_folders: list[str],
    out_seen: set[tuple[int, int]],
) -> None:
    """Note the files of a folder that may have entities, and the folders in it."""
    try:
        about = os.stat(folder)  # noqa: PTH116  many times faster than objects
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(
            Problem("bids", "{path} cannot be read: {reason}.", path=folder, reason=error.strerror)
        ) from error
    if (about.st_dev, about.st_ino) in out_seen:
        return
    out_seen.add((about.st_dev, about.st_ino))
    name = os.path.basename(folder)  # noqa: PTH119
    datatype = name if name in _DATATYPES else ""
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in _NOT_ENTERED and not entry.name.endswith(".zarr"):
                out_folders.append(entry.path)
        elif "-" in entry.name:  # also links whose content has still to be fetched
            out_files.append((entry.path, entry.name, datatype))


def is_data_set(folder: Path) -> bool:
    """Return whether a folder is a BIDS data set, raw or of derivatives."""
    return (folder / DESCRIPTION).is_file() or any(folder.glob("sub-*/"))


def read_description(folder: Path) -> dict[str, Any]:
    """Return what dataset_description.json says of a data set; {} without one.

    Raises
    ------
    InputError
        If it is no JSON, or holds no names and values.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            Problem("bids", "{path} cannot be read as JSON: {error}.", path=path, error=error)
        ) from error
    if not isinstance(content, dict):
        raise InputError(Problem("bids", "{path} must hold names and values in braces.", path=path))
    return content
