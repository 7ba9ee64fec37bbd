"""Say in a few lines what a run found."""

from collections.abc import Iterable

from nipype_blm.core.status import VoxelStatus
from nipype_blm.results.results import Results


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
