"""Results as SPM leaves them: its names of files, and the SPM.mat that its other steps read."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.core.equivalents import convert_f, convert_t
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.smoothness import Smoothness
from nipype_blm.data.maps import MapInfo
from nipype_blm.results.export import (
    ExportedKind,
    ExportedMap,
    check_folder,
    make_pattern,
    publish_export,
    select_contrasts,
)
from nipype_blm.results.results import ContrastResults, Results
from nipype_blm.results.spmmat import find_residual_map, pack_spm

# T and F contrasts are counted together, in the order of the contrasts.
MAPS = (
    ExportedKind("mask", "run", "mask", output="mask_file", words="voxels in the result"),
    ExportedKind(
        "beta_{n}", "column", "beta", output="beta_images", words="estimates of the columns of X"
    ),
    ExportedKind("ResMS", "run", "resms", output="residual_image", words="residual mean squares"),
    ExportedKind("RPV", "run", "resels", output="rpv_image", words="resels per voxel"),
    ExportedKind("con_{n}", "T", "effect", output="con_images", words="effects of T contrasts"),
    ExportedKind("spmT_{n}", "T", "stat", output="spmT_images", words="T, for erdf"),
    ExportedKind(
        "ess_{n}", "F", "explained", output="ess_images", words="sums of squares of F contrasts"
    ),
    ExportedKind("spmF_{n}", "F", "stat", output="spmF_images", words="F, for erdf"),
    ExportedKind(
        "dof_{n}", "any", "dof", output="dof_images", words="degrees of freedom of the error"
    ),
)
MAT = "SPM.mat"
TEXTS = (MAT,)
_OURS = make_pattern(MAPS, TEXTS)
DEFAULT_FOLDER = "spm"  # in that of the results
_LARGEST = 1e30  # of T and F, well inside single precision
# Squares of small units leave single precision.
_TYPES = {"mask": "uint8", "resms": "float64", "resels": "float64", "explained": "float64"}

_DESCRIPTIONS = {
    "mask": "spm_spm:resultant analysis mask",
    "beta": "spm_spm:beta ({n}) - {name}",
    "resms": "spm_spm:Residual sum-of-squares",
    "resels": "spm_spm: resels per voxel",
    "effect": "Contrast {i}: {name}",
    "explained": "ESS contrast {i}: {name}",
    "stat": "SPM{{{test}}} - contrast {i}: {name}",
    "dof": "Error degrees of freedom of contrast {i}: {name}",
}


class ExportedSPM(NamedTuple):
    """What an export in SPM's names has written."""

    out_dir: Path
    outputs: dict[str, list[Path]]  # of maps, by the names of outputs of the interface
    mat_file: Path
    names: list[str]  # of the contrasts, in their order
    t_numbers: list[int]  # of T contrasts in SPM.mat, from 1
    f_numbers: list[int]
    erdf: int  # error degrees of freedom of all T and F maps


def export_spm(
    results: Results,
    smoothness: Smoothness,
    out_dir: Path | None = None,
    contrasts: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ExportedSPM:
    """Write results in the names of SPM.

    SPM has one number of error degrees of freedom for all voxels and contrasts, ``erdf``: the
    median of the voxels, rounded down; of several contrasts the smallest.  The T or F of a voxel
    that has others is replaced by that with ``erdf`` and the same p, so that SPM's p and thresholds
    are those of the model.  ``ResMS`` of a mixed model is that of y - X beta; without its map,
    sigma2.

    Parameters
    ----------
    results : Results
        Of volumes.
    smoothness : Smoothness
        Of the results, as `nipype_blm.stages.smoothness.estimate_smoothness` finds it.
    out_dir : Path, optional
        Default: `DEFAULT_FOLDER` in that of the results.
    contrasts : sequence of str, optional
        Default: all.
    overwrite : bool
        Replace also the export of other results.

    Raises
    ------
    InputError
        If a contrast is not known, results are not of volumes, the folder has files of somebody
        else, or values do not fit into single precision.
    """
    chosen = select_contrasts(results, contrasts)
    erdf = _find_erdf(results, chosen)
    maps = [made for each in MAPS for made in _list_maps(each, results, smoothness, chosen, erdf)]
    folder = find_spm_folder(results, out_dir)
    mat = pack_spm(results, smoothness, chosen, erdf, maps, folder)
    done = publish_export(
        results, folder, "spm", maps, {MAT: mat}, _OURS, overwrite, compress=False
    )
    numbers = {
        is_f: [i for i, each in enumerate(chosen, 1) if each.is_f == is_f] for is_f in (False, True)
    }
    names = [each.name for each in chosen]
    mat_file = done.files[MAT]
    return ExportedSPM(
        done.out_dir, done.outputs, mat_file, names, numbers[False], numbers[True], erdf
    )


def find_spm_folder(results: Results, out_dir: Path | None = None) -> Path:
    """Return the folder of an export; to be asked before all images are read for it.

    Raises
    ------
    InputError
        If nothing can be written there, or it has files of somebody else.
    """
    folder = (results.folder / DEFAULT_FOLDER if out_dir is None else out_dir).absolute()
    check_folder(folder, _OURS)
    return folder


def _find_erdf(results: Results, contrasts: Sequence[ContrastResults]) -> int:
    """Return the median of the voxels, rounded down; of several contrasts the smallest."""
    medians = [each.describe("stat")["DegreesOfFreedom"]["Median"] for each in contrasts]
    return max(floor(min(medians, default=np.median(results.vector("edf")))), 1)


def _list_maps(
    declared: ExportedKind,
    results: Results,
    smoothness: Smoothness,
    contrasts: Sequence[ContrastResults],
    erdf: int,
) -> Iterator[ExportedMap]:
    """Yield the maps of a kind."""
    if declared.of == "run":
        kind = find_residual_map(results) if declared.kind == "resms" else "mask"
        read = partial(results.vector, kind)
        if declared.kind == "resels":
            read = partial(np.copy, smoothness.resels_per_voxel)
        yield _make_map(declared, results.path(kind), read, 1, "", "")
    elif declared.of == "column":
        for i, name in enumerate(results.column_names, 1):
            read = partial(results.vector, declared.kind, i - 1)
            yield _make_map(declared, results.path(declared.kind), read, i, name, "")
    else:
        for i, contrast in enumerate(contrasts, 1):
            if declared.of in ("any", "F" if contrast.is_f else "T"):
                read = partial(_READERS[declared.kind], contrast, erdf)
                test = (
                    f"F_[{len(contrast.weights)}.0,{erdf}.0]" if contrast.is_f else f"T_[{erdf}.0]"
                )
                yield _make_map(declared, contrast.path("stat"), read, i, contrast.name, test)


def _make_map(
    declared: ExportedKind,
    source: Path,
    read: Callable[[], FloatArray],
    i: int,
    name: str,
    test: str,
) -> ExportedMap:
    number = f"{i:04d}"
    words = _DESCRIPTIONS[declared.kind].format(n=number, i=i, name=name, test=test)
    return ExportedMap(
        MapInfo(declared.file.format(n=number), words, has_sidecar=False),  # SPM knows none
        source,
        lambda: [read()],
        np.dtype(_TYPES.get(declared.kind, "float32")),
        declared.output,
        0.0 if declared.kind in ("mask", "stat") else np.nan,
    )


def _read_stat(contrast: ContrastResults, erdf: int) -> FloatArray:
    """Return T or F with the degrees of freedom that SPM takes them to have."""
    stat, dof = contrast.vector("stat"), contrast.vector("dof")
    dof[stat == 0] = erdf  # where the contrast is not estimable there are none
    if contrast.is_f:
        return np.minimum(convert_f(stat, len(contrast.weights), dof, erdf), _LARGEST)
    return np.clip(convert_t(stat, dof, erdf), -_LARGEST, _LARGEST)


def _read_effect(contrast: ContrastResults, erdf: int) -> FloatArray:
    return _hide_gaps(contrast, contrast.vector("effect"))


def _read_explained(contrast: ContrastResults, erdf: int) -> FloatArray:
    """Return what SPM divides by its degrees of freedom and ResMS to get F."""
    scale = len(contrast.weights) * contrast.results.vector(find_residual_map(contrast.results))
    return _hide_gaps(contrast, contrast.vector("stat") * scale)


def _read_dof(contrast: ContrastResults, erdf: int) -> FloatArray:
    return _hide_gaps(contrast, contrast.vector("dof"))


def _hide_gaps(contrast: ContrastResults, values: FloatArray) -> FloatArray:
    """Return values with NaN where the contrast is not estimable."""
    if contrast.has_gaps:
        values[contrast.vector("estimable") == 0] = np.nan
    return values


_READERS = {
    "stat": _read_stat,
    "effect": _read_effect,
    "explained": _read_explained,
    "dof": _read_dof,
}
