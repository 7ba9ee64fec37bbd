"""Correct p by null distributions, and write what is found beside the results."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.clusters.fdr import compute_q, correct_bonferroni
from nipype_blm.core.clusters.graph import Graph, select
from nipype_blm.core.clusters.nulls import ExtendedP, extend_p, fit_tail
from nipype_blm.core.clusters.summaries import SUMMARIES, spread_summaries
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import Threads
from nipype_blm.data.atlas import read_atlas
from nipype_blm.data.kinds import name_map
from nipype_blm.data.maps import MapInfo
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, fingerprint
from nipype_blm.io.publish import Claim, publish
from nipype_blm.io.versions import read_versions
from nipype_blm.model.inference import InferenceOptions
from nipype_blm.results.findings import find_limits, find_log_p
from nipype_blm.results.inferred import (
    FILE,
    FOLDER,
    KINDS,
    Inferred,
    is_inferred_name,
    load_nulls,
    name_clusters,
    name_inferred,
    name_nulls,
    read_description,
)
from nipype_blm.results.results import ContrastResults, Results
from nipype_blm.stages.clustertable import tabulate_clusters
from nipype_blm.stages.fields import ContrastField, FieldTheory, find_field_theory
from nipype_blm.stages.reopened import Values
from nipype_blm.stages.resampling import (
    DEGENERATE,
    Resampled,
    ScoreFiles,
    find_graph,
    read_resampled,
)
from nipype_blm.stages.tiles import Tiles

JOINT = "joint"  # behind the name of a summary that was corrected across contrasts


class Found(NamedTuple):
    """What is found of one contrast."""

    contrast: ContrastResults
    is_tested: NDArray[np.bool_]  # (n_voxels,), of the analysis
    z: FloatArray  # (n_tested,)
    spread: Mapping[str, FloatArray]  # by summary, at the voxels that were tested
    p: Mapping[str, ExtendedP]  # corrected; behind JOINT across all contrasts
    nulls: FloatArray  # (n_summaries, n)
    n_degenerate: FloatArray  # (n,), voxels at which a resampling says nothing


def write_corrected(
    results_dir: Path,
    model_file: Path | str,
    resampled_file: Path | str,
    scores_files: Sequence[Path | str],
    nulls_files: Sequence[Path | str],
    ranges: Sequence[tuple[int, int]],
    n: int,
    options: InferenceOptions,
    batch_files: Sequence[Path | str],
    tile_files: Sequence[Path | str],
    n_threads: int = 1,
) -> Inferred:
    """Write corrected maps, clusters and null distributions to `FOLDER` in the results.

    Parameters
    ----------
    scores_files : sequence of paths
        Of all blocks.
    nulls_files : sequence of paths
        Of all `ranges` of resamplings; what is before them is taken from an earlier inference.
    n : int
        Resamplings in all.
    batch_files, tile_files : sequences of paths
        The images, and their values.
    """
    results = Results(results_dir)
    _, spec = read_model(model_file)
    what = read_resampled(resampled_file)
    nulls = _read_nulls(results, what, nulls_files, ranges, n)
    files = ScoreFiles(spec, what, scores_files)
    graph = find_graph(spec, what.neighbours)
    joint = np.max(nulls, axis=0) if options.joint and len(nulls) > 1 else None
    values = Values(spec, Tiles(spec, batch_files, tile_files))
    field = find_field_theory(results, values, n_threads)
    with Threads(n_threads) as threads:
        found = [
            _correct(results, what, files, graph, i, null, joint, options, threads)
            for i, null in enumerate(nulls)
        ]
    folder = results.folder / FOLDER
    described = _describe(results, what, found, n, options, field)
    of_atlas = [path.read_bytes() for path in (options.atlas, options.atlas_names) if path]
    stamp = fingerprint(json.dumps(described), results.stamp, *of_atlas)
    claim = Claim("inference", results.folder)
    write = partial(_write, results, spec, what, graph, found, options, described, field)
    publish(folder, stamp, claim, write, is_inferred_name)
    return Inferred(results)


def _read_nulls(
    results: Results,
    what: Resampled,
    nulls_files: Sequence[Path | str],
    ranges: Sequence[tuple[int, int]],
    n: int,
) -> list[FloatArray]:
    """Return of each contrast what `load_nulls` does."""
    first = ranges[0][0] if ranges else n
    done = read_description(results.folder / FOLDER) if first else None
    if first and (done is None or done.get("NullsFingerprint") != what.nulls_stamp):
        raise InputError(
            f"{results.folder / FOLDER} has been replaced by another inference since this one "
            "began, which was to go on from there; run it again."
        )
    nulls = []
    for number, label in enumerate(what.labels):
        parts = [] if done is None else [load_nulls(results.folder / FOLDER, label)[:, :first]]
        for path, (start, stop) in zip(nulls_files, ranges, strict=True):
            file = ArrayFile(path, what.range_stamp(start, stop))
            rows = [file.read(f"{number}/{name}") for name in (*what.summaries, DEGENERATE)]
            parts.append(np.array(rows, float))
        nulls.append(np.concatenate(parts, axis=1)[:, :n])
    return nulls


def _correct(
    results: Results,
    what: Resampled,
    files: ScoreFiles,
    graph: Graph,
    number: int,
    nulls: FloatArray,
    joint: FloatArray | None,
    options: InferenceOptions,
    threads: Threads,
) -> Found:
    contrast = results.contrasts[what.names[number]]
    is_tested = files.read_m(number) > 0
    z = files.resample(number, range(1), threads)[0][0].astype(float)
    names = list(what.summaries)
    two_sided = what.is_two_sided(number)
    of_map = spread_summaries(z, select(graph, is_tested), names, two_sided, what.options)
    spread = dict(zip(names, of_map, strict=True))
    with_tail = options.tail and not what.exhaustive
    least = 1 / what.n_distinct
    p = {}
    for i, name in enumerate(names):
        p[name] = _extend(spread[name], nulls[i], with_tail, least)
        if joint is not None:
            p[f"{name}{JOINT}"] = _extend(spread[name], joint[i], with_tail, least)
    return Found(contrast, is_tested, z, spread, p, nulls[:-1], nulls[-1])


def _extend(spread: FloatArray, null: FloatArray, with_tail: bool, least: float) -> ExtendedP:
    tail = fit_tail(null, has_identity=True) if with_tail else None
    return extend_p(spread, null, tail, has_identity=True, least=least)


def _describe(
    results: Results,
    what: Resampled,
    found: Sequence[Found],
    n: int,
    options: InferenceOptions,
    field: FieldTheory | str,
) -> dict[str, Any]:
    """Return what the file beside the maps says."""
    return {
        "Description": "Contrasts of the results in the folder above, corrected for the number of "
        "voxels. Resampling 0 is the data.",
        "Model": results.stamp,
        "Resampling": what.resampling,
        "Resamplings": n,
        "Exhaustive": what.exhaustive,
        "Seed": what.seed,
        "Groups": what.exchange.n_groups,
        "Summaries": list(what.summaries),
        "ClusterFormingZ": what.height,
        "Neighbours": what.neighbours,
        "Fdr": options.fdr,
        "LeastP": 1 / n,
        "NullsFingerprint": what.nulls_stamp,
        "RandomField": field if isinstance(field, str) else field.describe(),
        "Options": options.pack(),
        "Contrasts": [
            {
                "Name": each.contrast.name,
                "Label": each.contrast.label,
                "Tail": "two-sided" if what.is_two_sided(i) else "upper",
                "VoxelsTested": int(each.is_tested.sum()),
                "Degenerate": int(each.n_degenerate.sum()),
                "LargestZ": _find_largest(each.z, what.is_two_sided(i)),
                "LeastCorrectedP": {
                    name: float(values.p.min(initial=1.0)) for name, values in each.p.items()
                },
            }
            for i, each in enumerate(found)
        ],
        "Versions": read_versions(),
    }


def _find_largest(z: FloatArray, two_sided: bool) -> float:
    """Return the largest z of the sides that count; 0 without a voxel."""
    counted = np.abs(z) if two_sided else z
    return float(counted.max()) if counted.size else 0.0


def _write(
    results: Results,
    spec: ModelSpec,
    what: Resampled,
    graph: Graph,
    found: Sequence[Found],
    options: InferenceOptions,
    described: Mapping[str, Any],
    field: FieldTheory | str,
    folder: Path,
) -> None:
    """Write all files of an inference to an empty folder."""
    (folder / FILE).write_text(json.dumps(described, indent=1) + "\n")
    for i, each in enumerate(found):
        two_sided = what.is_two_sided(i)
        write_map = partial(_write_map, spec, folder, each)
        tail = "two-sided" if two_sided else "upper tail"
        about = f"{each.contrast.name}, {tail}"
        write_map("z", what.resampling, f"{KINDS['z'].words}: {about}", each.z)
        for name, values in each.p.items():
            words = SUMMARIES[name.removesuffix(JOINT)].words
            details = {
                "Summary": words,
                "Resamplings": described["Resamplings"],
                "LeastCounted": described["LeastP"],
                "VoxelsFromTail": int(values.from_tail.sum()),
                "AcrossContrasts": name.endswith(JOINT),
            }
            p = values.p
            write_map("p", name, f"{KINDS['p'].words} ({words}): {about}", p, details)
            text = f"{KINDS['log10p'].words} ({words}): {about}"
            write_map("log10p", name, text, -np.log10(p), details)
        if "tfce" in each.spread:
            signed = np.copysign(each.spread["tfce"], each.z)
            write_map("tfce", "", f"{KINDS['tfce'].words}: {about}", signed)
        _write_uncorrected(results, folder, each, two_sided, options.fdr)
        _write_nulls(folder, each, what)
        of_contrast = None
        if isinstance(field, FieldTheory):
            of_contrast = field.find_field(each.contrast, two_sided)
        if of_contrast is not None:
            p = _take(spec, each.is_tested, of_contrast.correct_voxels())
            write_map("p", "field", f"{KINDS['p'].words} (random fields): {about}", p)
        texts = _tabulate(spec, what, graph, each, two_sided, options, of_contrast)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _tabulate(
    spec: ModelSpec,
    what: Resampled,
    graph: Graph,
    found: Found,
    two_sided: bool,
    options: InferenceOptions,
    field: ContrastField | None,
) -> dict[str, str]:
    """Return the table of the clusters of a contrast, and what describes it."""
    contrast, tested = found.contrast, found.is_tested
    take = partial(_take, spec, tested)
    at_voxels: dict[str, FloatArray] = {}
    if not contrast.is_f:
        names = ("effect", "lower", "upper")
        at_voxels |= dict(zip(names, map(take, find_limits(contrast)), strict=True))
    at_voxels["n"] = take(contrast.results.vector("n"))
    at_voxels |= {f"p_{name}": values.p for name, values in found.p.items()}
    if field is not None:
        at_voxels["p_field"] = take(field.correct_voxels())
        if "cluster" in found.spread:
            sizes = found.spread["cluster"]
            at_voxels["p_clusterfield"] = field.correct_clusters(sizes, what.height)
    log_p = find_log_p(contrast, two_sided)
    at_voxels["q"] = take(np.exp(np.nan_to_num(compute_q(log_p, options.fdr))))
    words = {
        f"p_{name}": "Family-wise corrected p at the peak: "
        f"{SUMMARIES[name.removesuffix(JOINT)].words}"
        f"{', across all contrasts' * name.endswith(JOINT)}."
        for name in found.p
    }
    coordinates = spec.space.find_coordinates()[tested]
    labels = None
    if options.atlas is not None:
        labels = read_atlas(options.atlas, options.atlas_names).find_names(coordinates)
    return tabulate_clusters(
        name_clusters(contrast.label),
        found.z,
        select(graph, tested),
        what.height,
        two_sided,
        coordinates,
        spec.space.feature_size,
        options.distance_mm,
        at_voxels,
        words,
        labels,
    )


def _take(spec: ModelSpec, tested: NDArray[np.bool_], vector: FloatArray) -> FloatArray:
    """Return what voxels of the result have at those that were tested."""
    of_analysis = np.zeros(spec.n_voxels)
    of_analysis[spec.allowed] = vector
    return of_analysis[tested]


def _write_map(
    spec: ModelSpec,
    folder: Path,
    found: Found,
    kind: str,
    name: str,
    words: str,
    values: FloatArray,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a map of the voxels that were tested: elsewhere 0, and p is 1 within the result."""
    vector = np.zeros(spec.n_voxels)
    if kind == "p":
        vector[spec.allowed] = 1.0
    vector[found.is_tested] = values
    file = name_inferred(kind, found.contrast.label, name)
    info = MapInfo(file, words, KINDS[kind].intent, details=dict(details or {}))
    spec.space.write(folder / name_map(spec.space, file, False), info, [vector], np.dtype("f4"))


def _write_uncorrected(
    results: Results, folder: Path, found: Found, two_sided: bool, method: str
) -> None:
    """Write what follows from the p of the maps alone: q, and Bonferroni's p."""
    log_p = find_log_p(found.contrast, two_sided)
    label = found.contrast.label
    tests = int((~np.isnan(log_p)).sum())
    for kind, name, log_values in (
        ("q", method, compute_q(log_p, method)),
        ("p", "bonferroni", correct_bonferroni(log_p)),
    ):
        file = name_inferred(kind, label, name)
        words = f"{KINDS[kind].words} ({name}) of the p of the maps: {found.contrast.name}"
        info = MapInfo(file, words, KINDS[kind].intent, details={"Tests": tests})
        values = np.nan_to_num(np.exp(log_values), nan=1.0)
        path = folder / name_map(results.space, file, False)
        results.space.write(path, info, [values], np.dtype("f4"))


def _write_nulls(folder: Path, found: Found, what: Resampled) -> None:
    stem = name_nulls(found.contrast.label)
    np.save(folder / f"{stem}.npy", np.vstack([found.nulls, found.n_degenerate]))
    described = {
        "Description": "The largest value of each summary (row) in each resampling (column); the "
        "first column is that of the data. The last row: voxels at which a resampling says "
        "nothing, because no variance is left.",
        "Summaries": list(what.summaries),
        "Resamplings": found.nulls.shape[1],
        "Seed": what.seed,
        "Exhaustive": what.exhaustive,
        "Degenerate": int(found.n_degenerate.sum()),
    }
    (folder / f"{stem}.json").write_text(json.dumps(described, indent=1) + "\n")
