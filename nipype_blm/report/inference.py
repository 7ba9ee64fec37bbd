"""What an inference found, for the terminal."""

from collections.abc import Callable, Sequence

from nipype_blm.results.inferred import Inferred, InferredContrast

_LEVEL = 0.05
_MOST_PEAKS = 5


def summarise_inference(inferred: Inferred, write_name: Callable[[str], str] = str) -> str:
    """Return the findings of each contrast: corrected p by summary, and the first clusters."""
    lines = [
        f"{inferred.n:,} resamplings ({inferred.description['Resampling']}) of "
        f"{inferred.description['Groups']} groups of images; least p {1 / inferred.n:.3g}."
    ]
    for name, contrast in inferred.contrasts.items():
        lines += _summarise(write_name(name), contrast)
    return "\n".join(lines)


def _summarise(name: str, contrast: InferredContrast) -> list[str]:
    described = contrast.description
    least = ", ".join(f"{s} {p:.3g}" for s, p in described["LeastCorrectedP"].items())
    names = list(described["LeastCorrectedP"])
    found = [
        row
        for row in contrast.clusters
        if row["peak"] == "1" and min(_read_p(row, names)) <= _LEVEL
    ]
    lines = [f"{name} ({described['Tail']}): least corrected p: {least}."]
    if not found:
        return [*lines, f"  no cluster or voxel with corrected p <= {_LEVEL}"]
    for row in found[:_MOST_PEAKS]:
        where = f"{row['x']}, {row['y']}, {row['z']} mm"
        label = f" {row['label']}" if row.get("label") else ""
        pairs = zip(names, _read_p(row, names), strict=True)
        p = ", ".join(f"{name} {value:.3g}" for name, value in pairs)
        lines.append(
            f"  cluster {row['cluster']} at {where}{label}: z {row['peak_z']}, "
            f"{row['size_voxels']} voxels, p: {p}"
        )
    more = len(found) - _MOST_PEAKS
    return lines + ([f"  ... and {more} more clusters"] if more > 0 else [])


def _read_p(row: dict[str, str], names: Sequence[str]) -> list[float]:
    """Return the corrected p of a peak by resampling; p of random fields is another claim."""
    return [float(row[f"p_{name}"]) for name in names]
