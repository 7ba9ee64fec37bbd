"""Makers of small volumes in every kind of store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.channels import Channel, open_channel
from nipype_blm.blockmap.sources import Source

Triple = tuple[int, int, int]
Values = NDArray[Any]
# Writes values of z, y, x to a folder in chunks; returns fields of a source, or an array.
Maker = Callable[[Path, Values, Triple], Any]
OFFSET = (3, -2, 5)  # z, y, x, of precomputed volumes


def make_values(shape: tuple[int, ...], dtype: str = "int16", seed: int = 0) -> Values:
    """Return whole numbers over all of the range of a type of 16 bits, none of them zero."""
    return np.random.default_rng(seed).integers(1, 2**15, shape).astype(dtype)


def open_made(made: Any, name: str = "em", **fields: Any) -> Channel:
    """Open what a maker has returned."""
    return open_channel(Source(**{**made, **fields}) if isinstance(made, dict) else made, name)


# ------------------------------------------------------------------------------------- NIfTI


def save_nifti(path: Path, values: Values, order: str = "<") -> dict[str, Any]:
    import nibabel as nib

    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype)
    image = nib.Nifti1Image(values.T, np.diag([0.5, 1, 2, 1]), header)
    nib.save(image, path)
    return {"path": str(path)}


def make_nifti(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_nifti(folder / "em.nii", values)


def make_nifti_packed(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_nifti(folder / "em.nii.gz", values)


def make_nifti_big_endian(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_nifti(folder / "em.nii", values, ">")


def make_mgz(folder: Path, values: Values, chunks: Triple) -> Any:
    import nibabel as nib

    nib.save(nib.MGHImage(values.T, np.eye(4)), folder / "em.mgz")
    return {"path": str(folder / "em.mgz")}


# -------------------------------------------------------------------------------------- Zarr


def save_zarr(path: Path, values: Values, chunks: tuple[int, ...], **options: Any) -> Any:
    import zarr

    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=chunks, **options
    )
    array[...] = values
    return {"path": str(path)}


def make_zarr2(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_zarr(folder / "em.zarr", values, chunks, zarr_format=2)


def make_zarr2_slashes(folder: Path, values: Values, chunks: Triple) -> Any:
    names = {"name": "v2", "separator": "/"}
    return save_zarr(folder / "em.zarr", values, chunks, zarr_format=2, chunk_key_encoding=names)


def make_zarr2_fortran(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_zarr(folder / "em.zarr", values, chunks, zarr_format=2, order="F")


def make_zarr2_big_endian(folder: Path, values: Values, chunks: Triple) -> Any:
    values = values.astype(values.dtype.newbyteorder(">"))
    return save_zarr(folder / "em.zarr", values, chunks, zarr_format=2)


def make_zarr3(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_zarr(folder / "em.zarr", values, chunks)


def make_zarr3_dots(folder: Path, values: Values, chunks: Triple) -> Any:
    names = {"name": "default", "separator": "."}
    return save_zarr(folder / "em.zarr", values, chunks, chunk_key_encoding=names)


def make_zarr3_sharded(folder: Path, values: Values, chunks: Triple) -> Any:
    shards = tuple(2 * n for n in chunks)
    return save_zarr(folder / "em.zarr", values, chunks, shards=shards)


def make_zarr3_transposed(folder: Path, values: Values, chunks: Triple) -> Any:
    import zarr

    turned = [zarr.codecs.TransposeCodec(order=(2, 0, 1))]
    return save_zarr(folder / "em.zarr", values, chunks, filters=turned)


def make_zarr_with_names(folder: Path, values: Values, chunks: Triple) -> Any:
    turned = values.transpose(2, 0, 1)
    names = ["x", "z", "y"]
    chunks = (chunks[2], chunks[0], chunks[1])
    return save_zarr(folder / "em.zarr", turned, chunks, dimension_names=names)


def make_zarr_group(folder: Path, values: Values, chunks: Triple) -> Any:
    import zarr

    zarr.create_group(folder / "em.zarr")
    save_zarr(folder / "em.zarr" / "raw", values, chunks)
    return {"path": str(folder / "em.zarr")}


def make_zarr_within(folder: Path, values: Values, chunks: Triple) -> Any:
    import zarr

    zarr.create_group(folder / "em.zarr")
    save_zarr(folder / "em.zarr" / "raw", values, chunks)
    save_zarr(folder / "em.zarr" / "labels", values * 0, chunks)
    return {"path": str(folder / "em.zarr" / "raw")}


def make_zarr_zip(folder: Path, values: Values, chunks: Triple) -> Any:
    import zarr

    path = folder / "em.zarr.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, chunks=chunks)
        array[...] = values
    return {"path": str(path)}


def save_ome(
    path: Path,
    levels: list[Values],
    axes: list[Any],
    version: str = "0.5",
    steps: Any = None,
    **fields: Any,
) -> dict[str, Any]:
    """Write an image of OME-NGFF; `steps` are transformations of each level."""
    import zarr

    zarr_format = 3 if version == "0.5" else 2
    group = zarr.create_group(path, zarr_format=zarr_format)
    for number, values in enumerate(levels):
        options: dict[str, Any] = {}
        if zarr_format == 2:
            options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        array = group.create_array(
            str(number),
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(min(4, n) for n in values.shape),
            **options,
        )
        array[...] = values
    datasets: list[dict[str, Any]] = [{"path": str(n)} for n in range(len(levels))]
    for dataset, step in zip(datasets, steps or [], strict=False):
        dataset["coordinateTransformations"] = step
    omero = fields.pop("omero", None)
    image = {"axes": axes, "datasets": datasets, **fields}
    attributes = {"multiscales": [image], **({"omero": omero} if omero else {})}
    if version == "0.5":
        group.attrs["ome"] = {"version": version, **attributes}
    else:
        image["version"] = version
        group.attrs.update(attributes)
    return {"path": str(path)}


TCZYX = [
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"),
]


def _make_ome(folder: Path, values: Values, version: str) -> Any:
    five = np.stack([values * 0, values])[np.newaxis]
    steps = [[{"type": "scale", "scale": [1, 1, 2, 0.5, 0.25]}]]
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    made = save_ome(folder / "em.ome.zarr", [five], TCZYX, version, steps, omero=omero)
    return {**made, "channel": "GFP"}


def make_ome_04(folder: Path, values: Values, chunks: Triple) -> Any:
    return _make_ome(folder, values, "0.4")


def make_ome_05(folder: Path, values: Values, chunks: Triple) -> Any:
    return _make_ome(folder, values, "0.5")


# -------------------------------------------------------------------------------------- HDF5


def make_hdf5(folder: Path, values: Values, chunks: Triple) -> Any:
    import h5py

    with h5py.File(folder / "em.h5", "w") as file:
        file.create_dataset("raw", data=values, chunks=clip(chunks, values))
        file.create_dataset("names", data=np.arange(3))
    return {"path": str(folder / "em.h5")}


def make_hdf5_within(folder: Path, values: Values, chunks: Triple) -> Any:
    import h5py

    with h5py.File(folder / "em.h5", "w") as file:
        file["deep/raw"] = values.astype(values.dtype.newbyteorder(">"))
        file["deep/labels"] = values * 0
    return {"path": str(folder / "em.h5" / "deep" / "raw")}


def make_hdf5_dataset(folder: Path, values: Values, chunks: Triple) -> Any:
    made = make_hdf5_within(folder, values, chunks)
    return {"path": made["path"].removesuffix("/deep/raw"), "dataset": "/deep/raw"}


def clip(chunks: Triple, values: Values) -> Any:
    return tuple(map(min, chunks, values.shape))


# ------------------------------------------------------------------------------- TensorStore


def save_precomputed(path: Path, scales: list[Values], chunks: Triple, offset: Triple) -> Any:
    """Write scales, arrays of (channel, z, y, x), of voxels of 4 x 4 x 40 nm in the first."""
    import tensorstore as ts

    for number, values in enumerate(scales):
        factor = 2**number
        store = ts.open(
            {
                "driver": "neuroglancer_precomputed",
                "kvstore": f"file://{path}/",
                "multiscale_metadata": {
                    "type": "image",
                    "data_type": str(values.dtype),
                    "num_channels": len(values),
                },
                "scale_metadata": {
                    "key": f"s{number}",
                    "size": values.shape[:0:-1],
                    "encoding": "raw",
                    "chunk_size": chunks[::-1],
                    "resolution": [4 * factor, 4 * factor, 40],
                    "voxel_offset": offset[::-1],
                },
            },
            create=True,
            open=True,
        ).result()
        store[...].write(values.T).result()
    return {"path": str(path)}


def make_precomputed(folder: Path, values: Values, chunks: Triple) -> Any:
    return save_precomputed(folder / "em", [values[np.newaxis]], chunks, OFFSET)


def make_precomputed_address(folder: Path, values: Values, chunks: Triple) -> Any:
    channels = np.stack([values * 0, values])
    made = save_precomputed(folder / "em", [channels], chunks, OFFSET)
    return {"path": f"precomputed://file://{made['path']}", "channel": 1}


def _make_by_driver(driver: str, path: Path, metadata: Any, values: Values) -> None:
    import tensorstore as ts

    spec = {"driver": driver, "kvstore": f"file://{path}/", "metadata": metadata}
    ts.open(spec, create=True).result()[...].write(values).result()


def make_n5(folder: Path, values: Values, chunks: Triple) -> Any:
    metadata = {
        "dimensions": values.shape[::-1],
        "blockSize": chunks[::-1],
        "dataType": str(values.dtype),
        "compression": {"type": "gzip"},
    }
    _make_by_driver("n5", folder / "em.n5" / "raw", metadata, values.T)
    return {"path": str(folder / "em.n5" / "raw")}


def make_n5_dataset(folder: Path, values: Values, chunks: Triple) -> Any:
    path = Path(make_n5(folder, values, chunks)["path"]).parent
    return {"path": f"n5://{path}", "dataset": "raw"}


def make_zarr2_address(folder: Path, values: Values, chunks: Triple) -> Any:
    return {"path": f"zarr2://{make_zarr2(folder, values, chunks)['path']}"}


def make_zarr3_address(folder: Path, values: Values, chunks: Triple) -> Any:
    return {"path": f"zarr3://{make_zarr3(folder, values, chunks)['path']}"}


# --------------------------------------------------------------------------------- arrays


def load(path: str, order: str = "C") -> Any:
    """Return an array of a file: what a source python:module:function calls."""
    return np.asarray(np.load(path), order=order)  # type: ignore[call-overload]


def make_python(folder: Path, values: Values, chunks: Triple) -> Any:
    np.save(folder / "em.npy", values)
    options = {"path": str(folder / "em.npy"), "order": "F"}
    return {"path": f"python:{__file__}:load", "options": options}


def make_numpy(folder: Path, values: Values, chunks: Triple) -> Any:
    return values.copy()


def make_numpy_odd(folder: Path, values: Values, chunks: Triple) -> Any:
    array = np.asfortranarray(values.astype(values.dtype.newbyteorder(">")))[::-1][::-1]
    array.flags.writeable = False
    return array


def make_memmap(folder: Path, values: Values, chunks: Triple) -> Any:
    np.save(folder / "em.npy", values)
    return np.load(folder / "em.npy", mmap_mode="r+")


def make_dask(folder: Path, values: Values, chunks: Triple) -> Any:
    import dask.array

    return dask.array.from_array(values, chunks)


def make_hdf5_array(folder: Path, values: Values, chunks: Triple) -> Any:
    import h5py

    return h5py.File(make_hdf5(folder, values, chunks)["path"])["raw"]


def make_zarr_array(folder: Path, values: Values, chunks: Triple) -> Any:
    import zarr

    return zarr.open_array(make_zarr3(folder, values, chunks)["path"], mode="r")


MAKERS: dict[str, Maker] = {
    name.removeprefix("make_"): value
    for name, value in list(globals().items())
    if name.startswith("make_") and name != "make_values"
}
# Of which there is one file for each chunk or volume, and nothing that is opened by hand.
QUICK = (
    *("nifti", "nifti_packed", "zarr2_fortran", "zarr3_sharded", "hdf5", "precomputed", "n5"),
    *("numpy_odd", "dask"),
)
