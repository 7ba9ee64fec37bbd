"""What an inference found, for the terminal."""

from collections.abc import Callable

from nipype_blm.results.inferred import Inferred, InferredContrast

_LEVEL = 0.05
_MOST_CLUSTERS = 5


def summarise_inference(inferred: Inferred, write_name: Callable[[str], str] = str) -> str:
    """Return the findings of each contrast: least corrected p, and the first clusters."""
    described = inferred.description
    lines = [
        f"{inferred.n:,} resamplings ({described['Resampling']}) of {described['Groups']} groups "
        f"of images; the least p by counting is {described['LeastP']:.3g}."
    ]
    for name, contrast in inferred.contrasts.items():
        least = _write_p(contrast.description["LeastCorrectedP"])
        tail = contrast.description["Tail"]
        lines.append(f"{write_name(name)} ({tail}): least corrected p: {least}")
        lines += _list_clusters(contrast, inferred.summaries)
    return "\n".join(lines)


def _list_clusters(contrast: InferredContrast, summaries: list[str]) -> list[str]:
    """Return a line for each of the first clusters with any corrected p that counts as small."""
    found = []
    for row in contrast.clusters:
        p = {name: float(row[f"p_{name}"]) for name in summaries}
        if row["peak"] == "1" and min(p.values()) <= _LEVEL:
            where = f"{row['x']}, {row['y']}, {row['z']} mm"
            label = f" ({row['label']})" if row.get("label", "n/a") != "n/a" else ""
            found.append(
                f"  cluster {row['cluster']}, {row['size_voxels']} voxels, peak z "
                f"{float(row['peak_z']):.2f} at {where}{label}: {_write_p(p)}"
            )
    more = len(found) - _MOST_CLUSTERS
    lines = found[:_MOST_CLUSTERS] + [f"  ... and {more} more clusters"] * (more > 0)
    return lines or [f"  no cluster with a corrected p of {_LEVEL} or less at its peak"]


def _write_p(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {p:.3g}" for name, p in values.items())
