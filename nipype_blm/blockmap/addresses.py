"""What a path or an address tells of a store: of which kind it is."""

import re
from pathlib import Path

from nipype_blm.errors import InputError

_NIFTI = re.compile(r"\.(nii|mgh|mgz|mnc|hdr|img)(\.(gz|bz2|zst))?$", re.IGNORECASE)
HDF5 = re.compile(r"\.(h5|hdf5|hdf|he5|nwb|ims)(?=/|$)", re.IGNORECASE)
ZARR = re.compile(r"\.zarr(\.zip)?(?=/|$)", re.IGNORECASE)
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
N5 = re.compile(r"\.n5(?=/|$)", re.IGNORECASE)
# Schemes whose rest is the address of a store, and the driver of TensorStore that reads it.
DRIVERS = {
    "precomputed": "neuroglancer_precomputed",
    "n5": "n5",
    "zarr2": "zarr",
    "zarr3": "zarr3",
}
_REMOTE = re.compile(r"^(https?|s3|gs|gcs)://")


def tell_kind(path: str) -> str:
    """Return the name of what opens a path or an address.

    Raises
    ------
    InputError
        If nothing does.
    """
    scheme, has_scheme, _ = path.partition("://")
    if path.startswith("python:"):
        return "python"
    if has_scheme and scheme in DRIVERS:
        return "tensorstore"
    if scheme == "bossdb":
        return "boss"
    if has_scheme and _REMOTE.match(path):
        raise InputError(
            f"{path} does not say what is stored there; write precomputed://{path}, "
            f"zarr2://{path}, zarr3://{path} or n5://{path}."
        )
    if _NIFTI.search(path):
        return "nifti"
    if HDF5.search(path):
        return "hdf5"
    if ZARR.search(path) or Path(path).name in ZARR_FILES or _is_zarr(Path(path)):
        return "zarr"
    if N5.search(path) or (Path(path) / "info").is_file():
        return "tensorstore"
    raise InputError(
        f"{path} is {'there, but' if Path(path).exists() else 'not there, and'} nothing tells what "
        "it is; expected NIfTI (.nii, .nii.gz), Zarr (.zarr), HDF5 (.h5), N5 (.n5), a folder of "
        "precomputed, or an address such as precomputed://... or "
        "bossdb://collection/experiment/channel."
    )


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ZARR_FILES)
