"""What maps say of themselves, in a JSON sidecar too; find and load those written."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib

from nipype_blm import __version__
from nipype_blm.errors import InputError
from nipype_blm.io.files import open_input

EXTENSIONS = (".nii", ".nii.gz")  # the second one: compressed


class MapInfo(NamedTuple):
    """What a map file says about itself."""

    name: str  # path below the output folder, without extension
    description: str  # one sentence
    intent: str = "none"  # as nibabel calls it
    intent_parameters: tuple[float, ...] = ()
    volumes: tuple[str, ...] | None = None  # a label for each; None for a 3D map
    details: dict[str, Any] | None = None  # further entries of the sidecar


def find_map(folder: Path, name: str) -> Path | None:
    """Return the file of a map, if there is one, compressed or not."""
    # Also a link whose content is still to be fetched, which reading it will say.
    candidates = [folder / f"{name}{end}" for end in EXTENSIONS]
    found = [path for path in candidates if path.is_file() or path.is_symlink()]
    if len(found) > 1:
        raise InputError(
            f"{folder} has both {found[0].name} and {found[1].name}; remove the older one."
        )
    return found[0] if found else None


def read_sidecar(folder: Path, name: str) -> dict[str, Any]:
    """Return what the sidecar of a map says."""
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def load_map(path: Path) -> Any:
    """Return the image of a map."""
    with open_input(path):
        return nib.load(path)


def write_sidecar(path: Path, info: MapInfo) -> None:
    """Write what a map says about itself beside its file."""
    name = next(path.name.removesuffix(end) for end in EXTENSIONS if path.name.endswith(end))
    path.with_name(f"{name}.json").write_text(json.dumps(_describe(info), indent=2) + "\n")


def _describe(info: MapInfo) -> dict[str, Any]:
    sidecar: dict[str, Any] = {"Description": info.description}
    if info.volumes is not None:
        sidecar["Volumes"] = list(info.volumes)
    sidecar |= info.details or {}
    sidecar["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return sidecar
