"""A paragraph for the methods of a paper, what it cites, and links to every map."""

from pathlib import Path
from typing import Any

from nipype_blm.data.kinds import find_map
from nipype_blm.report.references import format_bibtex
from nipype_blm.report.reported import Reported
from nipype_blm.results.inferred import Inferred

# What resamplings are called in papers, and what they cite.
_RESAMPLINGS = {
    "flip_scores": ("sign flips of the standardised scores of independent groups", ["flips"]),
    "permute": ("Freedman-Lane permutations", ["permutation"]),
    "flip_data": ("sign flips of reduced-model residuals", []),
}
# What is compared with its largest value in each resampling.
SUMMARIES = {
    "voxel": "the largest voxel",
    "cluster": "the extent of clusters",
    "mass": "the mass of clusters",
    "tfce": "threshold-free cluster enhancement (TFCE)",
}


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    results = run.results
    names = [name for name, each in results.contrasts.items() if not each.is_f]
    return {
        "bibtex": format_bibtex(_list_keys(run)),
        "formula": "" if results.study is None else results.study.formula,
        "n_images": len(results.images),
        "n_columns": len(results.column_names),
        "n_t": len(names),
        "n_f": len(results.contrasts) - len(names),
        "factors": [(factor.name, factor.n_levels) for factor in results.factors],
        "criterion": results.criterion,
        "n_least": _find_least_n(run),
        "n_fitted": results.n_fitted,
        "zero_is_missing": results.options["zero_is_missing"],
        "version": results.versions.get("nipype_blm", ""),
        "inferred": None if run.inferred is None else _describe_inference(run.inferred),
        "files": _list_files(run.folder),
    }


def _find_least_n(run: Reported) -> int:
    return int(run.results.vector("n").min()) if run.results.n_fitted else 0


def _describe_inference(inferred: Inferred) -> dict[str, Any]:
    description = inferred.description
    words = [SUMMARIES.get(name, name) for name in inferred.summaries]
    return {
        "n": inferred.n,
        "how": _RESAMPLINGS.get(description["Resampling"], (description["Resampling"], []))[0],
        "summaries": words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}",
        "height": description["ClusterFormingZ"],
        "has_clusters": bool({"cluster", "mass"} & set(inferred.summaries)),
        "tail": description.get("Options", {}).get("tail", True) and not description["Exhaustive"],
    }


def _list_keys(run: Reported) -> list[str]:
    keys = ["nipype_blm", "blmm" if run.is_mixed else "blm"]
    if run.is_mixed:
        keys += ["fisher", "lmertest"]
    keys.append("fdr")
    if run.inferred is not None:
        described = _describe_inference(run.inferred)
        keys += _RESAMPLINGS.get(run.inferred.description["Resampling"], ("", []))[1]
        keys += ["tfce"] * ("tfce" in run.inferred.summaries) + ["tail"] * described["tail"]
    return [*keys, "nipype", "nilearn"]


def _list_files(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the files of the results, those of each folder together, relative to it."""
    found = []
    for name in ("", "contrasts", "inference", "diagnostics", "diagnostics/contrasts", "model"):
        place = folder / name
        if not place.is_dir():
            continue
        files = sorted(
            f"{name}/{path.name}".lstrip("/")
            for path in place.iterdir()
            if path.is_file() and not path.name.startswith(".") and _is_shown(path)
        )
        if files:
            found.append((name or folder.name, files))
    return found


def _is_shown(path: Path) -> bool:
    """Leave out what only describes the file beside it, and reports."""
    if path.suffix == ".html":
        return False
    return path.suffix != ".json" or find_map(path.parent, path.stem) is None
