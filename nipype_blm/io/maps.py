"""Write maps as NIfTI, volume by volume, each with a JSON sidecar."""

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

# NIfTI-1 intent codes.
INTENTS = {
    "none": 0,
    "t": 3,
    "f": 4,
    "z": 5,
    "p": 22,
    "log10p": 24,
    "estimate": 1001,
    "label": 1002,
}
_LARGEST_NIFTI1 = 2**15 - 1


class MapInfo(NamedTuple):
    """What a map file says about itself."""

    name: str  # path below the output folder, without extension
    description: str  # one sentence
    intent: str = "none"
    intent_parameters: tuple[float, ...] = ()
    volumes: tuple[str, ...] | None = None  # a label for each; None for a 3D map
    details: dict[str, Any] | None = None  # further entries of the sidecar


def make_template_header(image_file: Path) -> bytes:
    """Return a NIfTI-1 header with the space of an image and nothing else of it."""
    image: Any = nib.load(image_file)
    header = nib.Nifti1Header()
    shape = (*image.shape, 1, 1, 1)[:3]
    header.set_data_shape([min(n, _LARGEST_NIFTI1) for n in shape])
    header.set_zooms(nib.affines.voxel_sizes(image.affine))
    source = image.header
    if isinstance(source, nib.Nifti1Header):
        header.set_xyzt_units(*source.get_xyzt_units())
        header["qform_code"], header["sform_code"] = source["qform_code"], source["sform_code"]
        for field in ("pixdim", "quatern_b", "quatern_c", "quatern_d"):
            header[field] = source[field]
        for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
            header[field] = source[field]
        header["pixdim"][4:] = 1
    else:
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
    with contextlib.ExitStack() as stack:
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


def _make_header(
    template: bytes, shape: Sequence[int], info: MapInfo, dtype: np.dtype[Any]
) -> bytes:
    header: Any = nib.Nifti1Header(template, check=False)
    if max(shape) > _LARGEST_NIFTI1:
        header = nib.Nifti2Header.from_header(header, check=False)
        header["magic"] = b"n+2\0"
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_intent(INTENTS[info.intent], info.intent_parameters, name="", allow_unknown=True)
    header["descrip"] = info.description[:79].encode("ascii", "replace")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = b"n+1\0" if max(shape) <= _LARGEST_NIFTI1 else b"n+2\0\r\n\032\n"
    offset = 352 if max(shape) <= _LARGEST_NIFTI1 else 544
    header["vox_offset"] = offset
    block = bytes(header.binaryblock)
    return block + bytes(offset - len(block))


def _describe(info: MapInfo) -> dict[str, Any]:
    sidecar: dict[str, Any] = {"Description": info.description}
    if info.volumes is not None:
        sidecar["Volumes"] = list(info.volumes)
    sidecar |= info.details or {}
    sidecar["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return sidecar
