"""Results as FSL's flameo leaves them: its names of files, its numbers, its designs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.maps import MapInfo
from nipype_blm.io.vest import format_vest
from nipype_blm.results.export import (
    Exported,
    ExportedKind,
    ExportedMap,
    make_pattern,
    publish_export,
    read_volumes,
    select_contrasts,
)
from nipype_blm.results.results import ContrastResults, Results

# T and F contrasts are counted apart, in the order of the contrasts.
MAPS = (
    ExportedKind("mask", "run", "mask", output="mask_file", words="voxels in the result"),
    ExportedKind("stats/mask", "run", "mask", words="the same"),
    ExportedKind(
        "stats/pe{n}", "column", "beta", "estimate", "pes", "estimates, one for each column of X"
    ),
    ExportedKind("stats/cope{n}", "T", "effect", "estimate", "copes", "effects of T contrasts"),
    ExportedKind("stats/varcope{n}", "T", "variance", "estimate", "var_copes", "their variances"),
    ExportedKind("stats/tstat{n}", "T", "stat", "t test", "tstats", "T statistics"),
    ExportedKind("stats/zstat{n}", "T", "z", "z score", "zstats", "z of T, signed"),
    ExportedKind("stats/tdof_t{n}", "T", "dof", output="tdof", words="degrees of freedom of T"),
    ExportedKind(
        "stats/mask_t{n}", "T", "estimable", words="voxels at which a T contrast is estimable"
    ),
    ExportedKind("stats/fstat{n}", "F", "stat", "f test", "fstats", "F statistics"),
    ExportedKind("stats/zfstat{n}", "F", "z", "z score", "zfstats", "z with the upper tail of F"),
    ExportedKind("stats/fdof1_f{n}", "F", "rows", output="fdof1", words="rows of F contrasts"),
    ExportedKind(
        "stats/fdof2_f{n}", "F", "dof", output="fdof2", words="error degrees of freedom of F"
    ),
    ExportedKind(
        "stats/mask_f{n}", "F", "estimable", words="voxels at which an F contrast is estimable"
    ),
)
TEXTS = (
    *("design.mat", "design.con", "design.fts", "design.grp", "images.tsv", "names.tsv"),
    "stats/dof",
)
_OURS = make_pattern(MAPS, TEXTS)
DEFAULT_FOLDER = "fsl"  # in that of the results


class ExportedFSL(NamedTuple):
    """What an export in FSL's names has written."""

    out_dir: Path
    outputs: dict[str, list[Path]]  # of maps, by the names of outputs of the interface
    files: dict[str, Path]  # of texts, by their names below the folder
    t_masks: list[Path]  # where each T contrast is estimable
    f_masks: list[Path]
    t_names: list[str]
    f_names: list[str]
    dof: int  # as in stats/dof


def export_fsl(
    results: Results,
    out_dir: Path | None = None,
    contrasts: Sequence[str] | None = None,
    overwrite: bool = False,
) -> ExportedFSL:
    """Write results in the names of FSL's flameo.

    All maps are compressed, of 32-bit floats but for masks, with the intents that flameo gives.
    ``design.con`` has the T contrasts, and behind them the rows of F contrasts that are no T
    contrasts; these have no maps.  ``design.fts`` combines both.

    Parameters
    ----------
    results : Results
    out_dir : Path, optional
        Default: `DEFAULT_FOLDER` in that of the results.
    contrasts : sequence of str, optional
        Default: all.
    overwrite : bool
        Replace also the export of other results.

    Raises
    ------
    InputError
        If a contrast is not known, the folder has files of somebody else, or values do not fit
        into single precision.
    """
    chosen = select_contrasts(results, contrasts)
    groups = {"T": [c for c in chosen if not c.is_f], "F": [c for c in chosen if c.is_f]}
    maps = [made for each in MAPS for made in _list_maps(each, results, groups)]
    dof = _find_dof(chosen)
    texts = _format_designs(results, groups["T"], groups["F"]) | {
        "images.tsv": _list_images(results),
        "names.tsv": _list_names(results, groups),
        "stats/dof": f"{dof}\n",
    }
    folder = results.folder / DEFAULT_FOLDER if out_dir is None else out_dir
    done = publish_export(results, folder, "fsl", maps, texts, _OURS, overwrite)
    masks = {test: _list_masks(done, test, len(groups[test])) for test in groups}
    names = {test: [each.name for each in group] for test, group in groups.items()}
    outputs = {name: paths for name, paths in done.outputs.items() if name}
    return ExportedFSL(
        done.out_dir, outputs, done.files, masks["T"], masks["F"], names["T"], names["F"], dof
    )


def _list_maps(
    declared: ExportedKind, results: Results, groups: dict[str, list[ContrastResults]]
) -> Iterator[ExportedMap]:
    """Yield the maps of a kind."""
    if declared.of == "run":
        yield _make_map(declared, results, declared.file, "")
    elif declared.of == "column":
        for number, name in enumerate(results.column_names):
            made = _make_map(declared, results, declared.file.format(n=number + 1), name)
            yield replace(made, read=partial(_read_one, results, declared.kind, number))
    else:
        for number, contrast in enumerate(groups[declared.of], 1):
            file = declared.file.format(n=number)
            if declared.kind == "rows":
                made = _make_map(declared._replace(kind="stat"), contrast, file, contrast.name)
                n_rows = float(len(contrast.weights))
                yield replace(made, read=partial(_fill, results, n_rows))
            elif declared.kind != "estimable" or contrast.has_gaps:
                yield _make_map(declared, contrast, file, contrast.name)


def _make_map(
    declared: ExportedKind, owner: Results | ContrastResults, file: str, name: str
) -> ExportedMap:
    # FSL knows no sidecars, and patterns such as cope* would find them.
    info = MapInfo(file, f"{declared.words} {name}".strip(), declared.intent, has_sidecar=False)
    is_mask = declared.kind in ("mask", "estimable")
    return ExportedMap(
        info,
        owner.path(declared.kind),
        partial(read_volumes, owner, declared.kind),
        np.dtype("uint8" if is_mask else "float32"),
        declared.output,
    )


def _read_one(results: Results, kind: str, number: int) -> list[FloatArray]:
    return [results.vector(kind, number)]


def _fill(results: Results, value: float) -> list[FloatArray]:
    """Return a map with the same value at every voxel."""
    return [np.full(results.space.n_features, value)]


def _find_dof(contrasts: Sequence[ContrastResults]) -> int:
    """Return the median of the voxels, rounded down; of several contrasts the smallest."""
    medians = [each.describe("stat")["DegreesOfFreedom"]["Median"] for each in contrasts]
    return floor(min(medians))


def _format_designs(
    results: Results, t: Sequence[ContrastResults], f: Sequence[ContrastResults]
) -> dict[str, str]:
    """Return designs in FSL's format: all rows of F contrasts are T contrasts there."""
    names, rows = [each.name for each in t], [each.weights[0].tolist() for each in t]
    tests = []
    for contrast in f:
        several = contrast.weights.tolist()
        for number, row in enumerate(several, 1):
            if row not in rows:
                rows.append(row)
                names.append(f"{contrast.name}, row {number}")
        tests.append([rows.index(row) for row in several])
    texts = {
        "design.mat": format_vest(results.X, "mat"),
        "design.con": format_vest(np.array(rows), "con", names),
        # All images in one group of one variance, as the model has it.
        "design.grp": format_vest(np.ones((len(results.X), 1)), "grp"),
    }
    if tests:
        combined = np.zeros((len(tests), len(rows)))
        for row, chosen in zip(combined, tests, strict=True):
            row[chosen] = 1
        texts["design.fts"] = format_vest(combined, "fts")
    return texts


def _list_images(results: Results) -> str:
    """Return the image of each row of design.mat, in its order, as a table."""
    lines = [f"{each.image}\t{each.volume}\n" for each in results.images]
    return "".join(["image\tvolume\n", *lines])


def _list_names(results: Results, groups: dict[str, list[ContrastResults]]) -> str:
    """Return which number stands for which column of X, and for which contrast, as a table."""
    named = {"pe": list(results.column_names)}
    named |= {test: [each.name for each in group] for test, group in groups.items()}
    lines = [
        f"{kind}\t{number}\t{' '.join(name.split())}\n"
        for kind, names in named.items()
        for number, name in enumerate(names, 1)
    ]
    return "".join(["kind\tnumber\tname\n", *lines])


def _list_masks(done: Exported, test: str, n_contrasts: int) -> list[Path]:
    """Return a mask for each contrast: its own, or that of the result."""
    paths = done.outputs.get("", [])
    by_name = {path.name: path for path in paths}
    of_all = done.outputs["mask_file"][0]
    names = (f"mask_{test.lower()}{i}.nii.gz" for i in range(1, n_contrasts + 1))
    return [by_name.get(name, of_all) for name in names]
