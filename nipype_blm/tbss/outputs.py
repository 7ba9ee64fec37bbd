"""What is left when all is done: files of all images, tables of tracts; nothing of earlier runs."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.atlas import read_atlas
from nipype_blm.errors import count, join_some
from nipype_blm.io.files import naming, replacing, write_if_changed
from nipype_blm.tbss.group import choose_used
from nipype_blm.tbss.images import list_places, read_volume, set_place
from nipype_blm.tbss.plan import Plan


def assemble(plan: Plan) -> list[Path]:
    """Write one file of all images for each measure, and the means by tract.

    Returns
    -------
    files : list of Path
    """
    used, _ = choose_used(plan)
    names = [plan.subjects[i].name for i in used]
    _remove_others(plan, names)
    files: list[Path] = []
    inside = read_volume(plan.paths.mean_fa_mask).data > 0
    for measure in plan.measures:
        if plan.options.write_4d:
            files += _write_all(plan, measure, names, inside)
        files.append(_write_tracts(plan, measure, names))
    for path in (*plan.paths.stats.glob("all_*.nii.gz"), *plan.out_dir.glob("tracts_*.tsv")):
        if path not in files:
            path.unlink()  # of an earlier run, which had other maps
    return files


def _remove_others(plan: Plan, names: Iterable[str]) -> None:
    """Remove images on the skeleton, and warps, that are of none of these observations."""
    paths = plan.paths
    keep = {paths.find_skeletonised(name, m) for name in names for m in plan.measures}
    keep |= {paths.find_warp(subject.name) for subject in plan.subjects}
    there = (plan.out_dir / "skeletonised").glob("*/*.nii.gz")
    for path in (*there, *paths.warps.glob("*_warp.nii.gz")):
        if path not in keep:
            path.unlink()


def _write_all(plan: Plan, measure: str, names: list[str], inside: NDArray[np.bool_]) -> list[Path]:
    stats = plan.paths.stats
    standard = (read_volume(plan.paths.find_standard(name, measure)) for name in names)
    masked = (np.where(inside, volume.data, 0) for volume in standard)
    skeletonised = (read_volume(plan.paths.find_skeletonised(name, measure)) for name in names)
    affine = read_volume(plan.paths.mean_fa_mask).affine
    written = []
    for what, volumes in (
        (f"all_{measure}", masked),
        (f"all_{measure}_skeletonised", (volume.data for volume in skeletonised)),
    ):
        path = stats / f"{what}.nii.gz"
        write_series(path, volumes, (*inside.shape, len(names)), affine)
        written.append(path)
    return written


def write_series(
    path: Path,
    volumes: Iterator[NDArray[np.float32]],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
) -> None:
    """Write volumes, one after the other, as one compressed image of float32."""
    from zlib_ng import gzip_ng

    header: Any = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    set_place(header, affine)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    with (
        naming(path),
        replacing(path) as file,
        # No name and no time in the gzip header: equal images are equal files.
        gzip_ng.GzipNGFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as out,
    ):
        out.write(header.binaryblock + bytes(4))
        for volume in volumes:
            out.write(np.asarray(volume, "<f4").tobytes(order="F"))


def _write_tracts(plan: Plan, measure: str, names: list[str]) -> Path:
    """Write the mean of each image along the skeleton: of all of it, and by label of an atlas.

    Voxels that are 0, which an observation lacks, do not count; where it has none, n/a stands.
    """
    mask_image = read_volume(plan.paths.skeleton_mask)
    mask = mask_image.data > 0
    regions = {"skeleton": np.ones(np.count_nonzero(mask), bool)}
    if plan.options.atlas is not None:
        regions |= _find_regions(plan, list_places(mask, mask_image.affine), set(regions))
    lines = ["\t".join(["name", *regions]) + "\n"]
    for name in names:
        values = read_volume(plan.paths.find_skeletonised(name, measure)).data[mask]
        cells = [_average(values[inside]) for inside in regions.values()]
        lines.append("\t".join([name, *cells]) + "\n")
    path = plan.paths.find_tracts(measure)
    write_if_changed(path, "".join(lines).encode())
    sizes = [f"{region}\t{np.count_nonzero(inside)}\n" for region, inside in regions.items()]
    write_if_changed(plan.paths.tract_sizes, "".join(["tract\tvoxels\n", *sizes]).encode())
    return path


def describe_tracts(plan: Plan) -> list[str]:
    """Return what is odd about the labels of an atlas, of which some lie beside the skeleton."""
    if plan.options.atlas is None:
        return []
    _, _, *lines = plan.paths.tract_sizes.read_text().splitlines()  # header, whole skeleton
    rows = [line.rsplit("\t", 1) for line in lines]
    empty = [name for name, n_voxels in rows if n_voxels == "0"]
    if not empty:
        return []
    return [
        f"{count(len(empty), 'label')} of {len(rows)} of the atlas {plan.options.atlas} "
        f"{'has' if len(empty) == 1 else 'have'} no voxel on the skeleton, and n/a in the tables: "
        f"{join_some(empty, 5)}."
    ]


def _average(values: NDArray[np.float32]) -> str:
    present = values[values != 0]
    return f"{present.mean(dtype=np.float64):.6g}" if present.size else "n/a"


def _find_regions(
    plan: Plan, places: NDArray[np.float64], taken: Container[str]
) -> dict[str, NDArray[np.bool_]]:
    """Return which voxels of the skeleton each label has, by its name, with its number if taken."""
    assert plan.options.atlas is not None
    atlas = read_atlas(plan.options.atlas, plan.options.atlas_names)
    labels = atlas.find_labels(places)
    known = sorted((set(np.unique(atlas.labels).tolist()) | set(atlas.names)) - {0})
    regions: dict[str, NDArray[np.bool_]] = {}
    for label in known:
        name = atlas.name(label)
        name = f"{name} ({label})" if name in regions or name in taken else name
        regions[name] = labels == label
    return regions
