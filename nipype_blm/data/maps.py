"""What maps say of themselves, in a JSON sidecar too; their images."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from nipype_blm import __version__
from nipype_blm.errors import InputError
from nipype_blm.io.files import open_input


class MapInfo(NamedTuple):
    """What a map file says about itself."""

    name: str  # path below the output folder, without extension
    description: str  # one sentence
    intent: str = "none"  # as nibabel calls it
    intent_parameters: tuple[float, ...] = ()
    volumes: tuple[str, ...] | None = None  # a label for each; None for a 3D map
    details: dict[str, Any] | None = None  # further entries of the sidecar
    has_sidecar: bool = True


def load_image(path: Path) -> Any:
    """Return a map as an image of nibabel, which not all kinds of maps are."""
    with open_input(path):
        try:
            return nib.load(path)
        except ImageFileError as error:
            raise InputError(f"{path} is no image for nibabel; take it as an array.") from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what is said beside the file of a map."""
    name = path.name.partition(".")[0]  # labels have no dots
    found: dict[str, Any] = json.loads(path.with_name(f"{name}.json").read_text())
    return found


def write_sidecar(path: Path, info: MapInfo) -> None:
    """Write what a map says about itself beside its file, unless it has no sidecar."""
    if not info.has_sidecar:
        return
    sidecar = path.with_name(f"{Path(info.name).name}.json")
    sidecar.write_text(json.dumps(_describe(info), indent=2) + "\n")


def _describe(info: MapInfo) -> dict[str, Any]:
    sidecar: dict[str, Any] = {"Description": info.description}
    if info.volumes is not None:
        sidecar["Volumes"] = list(info.volumes)
    sidecar |= info.details or {}
    sidecar["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return sidecar
