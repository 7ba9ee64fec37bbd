"""Say in a few lines what a run found."""

from collections.abc import Callable, Iterable

from nipype_blm.core.status import VoxelStatus
from nipype_blm.errors import count
from nipype_blm.results.diagnostics import Diagnostics
from nipype_blm.results.results import Results

_MOST_SHOWN = 5  # images that stand out


def list_counts(results: Results) -> list[tuple[int, str]]:
    """Return how many voxels of the analysis mask became what."""
    counts = results.counts.items()
    return [(n, status.meaning) for status, n in counts if status != VoxelStatus.OUTSIDE]


def summarise_run(results: Results, names: Iterable[str]) -> str:
    """Return what happened at the voxels, what was tested, and where the maps are.

    Parameters
    ----------
    results : Results
    names : iterable of str
        Of the contrasts, as they are to be shown.
    """
    lines = [f"{n:>10,} voxels {meaning}" for n, meaning in list_counts(results)]
    return "\n".join(
        [*lines, f"Contrasts: {', '.join(names)}", f"The maps are in {results.folder}"]
    )


def summarise_diagnostics(found: Diagnostics, show: Callable[[str], str] = str) -> str:
    """Return which images stand out and why, what ignoring groups would claim, and where all is.

    Parameters
    ----------
    found : Diagnostics
    show : callable
        How names are to be shown.
    """
    worst = found.outlying
    verb = "stands" if len(worst) == 1 else "stand"
    lines = [f"{count(len(worst), 'image')} of {len(found.images)} {verb} out"]
    for row in worst[:_MOST_SHOWN]:
        volume = f", volume {row.volume}" if row.volume else ""
        lines.append(f"  {show(row.image)}{volume}: {row.reason}")
    if len(worst) > _MOST_SHOWN:
        lines.append(f"  ... and {len(worst) - _MOST_SHOWN} more, in images.tsv")
    for name, ratio in found.se_ratio.items():
        if ratio == ratio:
            lines.append(
                f"Contrast {show(name)}: standard errors are {ratio:.2f} times (median) those of "
                "least squares, which ignores the random factors"
            )
    return "\n".join([*lines, f"The maps and tables are in {found.out_dir}"])
