"""Write maps as NIfTI, volume by volume, each with a JSON sidecar; find those written."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from zlib_ng import gzip_ng

from nipype_blm import __version__
from nipype_blm.data.images import read_start
from nipype_blm.errors import InputError
from nipype_blm.io.files import naming, open_input

EXTENSIONS = (".nii", ".nii.gz")
_LARGEST_NIFTI1 = 2**15 - 1


class MapInfo(NamedTuple):
    """What a map file says about itself."""

    name: str  # path below the output folder, without extension
    description: str  # one sentence
    intent: str = "none"  # as nibabel calls it
    intent_parameters: tuple[float, ...] = ()
    volumes: tuple[str, ...] | None = None  # a label for each; None for a 3D map
    details: dict[str, Any] | None = None  # further entries of the sidecar


def make_template_header(image_file: Path) -> bytes:
    """Return a NIfTI-1 header with the space of an image and nothing else of it."""
    start = read_start(image_file)
    source: Any
    if start[344:348] == b"n+1\0":
        source = nib.Nifti1Header(start, check=False)
    else:
        image: Any = nib.load(image_file)
        source = image.header
    header = nib.Nifti1Header()
    shape = (*source.get_data_shape(), 1, 1, 1)[:3]
    header.set_data_shape([min(n, _LARGEST_NIFTI1) for n in shape])
    if isinstance(source, nib.Nifti1Header):  # or NIfTI-2, which has the same fields
        for field in _SPACE_FIELDS:
            header[field] = source[field]
    else:
        header.set_zooms(nib.affines.voxel_sizes(image.affine))
        header.set_xyzt_units("mm")
        header.set_sform(image.affine, code="scanner")
    return bytes(header.binaryblock)


def write_map(
    path: Path,
    template: bytes,
    shape: Sequence[int],
    info: MapInfo,
    volumes: Iterable[NDArray[Any]],
    dtype: np.dtype[Any],
) -> None:
    """Write one map and its sidecar.

    Parameters
    ----------
    path : Path
        Ends in .nii or .nii.gz.
    template : bytes
        A NIfTI-1 header with the space of the images.
    volumes : iterable of arrays of shape (n_grid,)
        In file order; taken one at a time.
    """
    n_volumes = () if info.volumes is None else (len(info.volumes),)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _make_header(template, (*shape, *n_volumes), info, dtype)
    with naming(path), contextlib.ExitStack() as stack:
        if path.suffix == ".gz":
            raw = stack.enter_context(path.open("wb"))
            # No name and no time in the gzip header: equal maps are equal files.
            file: Any = stack.enter_context(
                gzip_ng.GzipNGFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
            )
        else:
            file = stack.enter_context(path.open("wb"))
        file.write(header)
        for volume in volumes:
            file.write(np.ascontiguousarray(volume, dtype).view(np.uint8).data)
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    sidecar.write_text(json.dumps(_describe(info), indent=2) + "\n")


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


def load_map(folder: Path, *names: str) -> Any:
    """Return the image of the first of some maps that is there."""
    found = filter(None, (find_map(folder, name) for name in names))
    path = next(found, folder / f"{names[-1]}{EXTENSIONS[-1]}")
    with open_input(path):
        return nib.load(path)


def _make_header(
    template: bytes, shape: Sequence[int], info: MapInfo, dtype: np.dtype[Any]
) -> bytes:
    template_header = nib.Nifti1Header(template, check=False)
    is_large = max(shape) > _LARGEST_NIFTI1
    header: Any = nib.Nifti2Header() if is_large else nib.Nifti1Header()
    for field in _SPACE_FIELDS:
        header[field] = template_header[field]
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["pixdim"][4:] = 1
    header.set_intent(info.intent, info.intent_parameters, name="", allow_unknown=True)
    header["descrip"] = info.description[:79].encode("ascii", "replace")
    header["scl_slope"], header["scl_inter"] = 1, 0
    block = header.binaryblock
    header["vox_offset"] = offset = -(-(len(block) + 4) // 16) * 16
    return bytes(header.binaryblock) + bytes(offset - len(block))


_SPACE_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _describe(info: MapInfo) -> dict[str, Any]:
    sidecar: dict[str, Any] = {"Description": info.description}
    if info.volumes is not None:
        sidecar["Volumes"] = list(info.volumes)
    sidecar |= info.details or {}
    sidecar["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return sidecar
