"""Draw z maps over a template, from written maps; needs the extra ``plot``."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray

_WIDTH, _ROW_HEIGHT = 12.0, 2.3  # inches
_N_SLICES = 7
_SIDECAR_END = "_stat-z_statmap.json"


class DrawnContrast(NamedTuple):
    """What a row of the figure shows."""

    name: str
    test: str  # T or F
    threshold: float  # of z; infinite where no voxel is significant
    n_voxels: int  # beyond the threshold


def find_fdr_threshold(z: FloatArray, alpha: float, two_sided: bool) -> float:
    """Return the z beyond which the false discovery rate is at most `alpha`.

    Parameters
    ----------
    z : array of shape (n_voxels,)
        Voxels in the mask only.
    alpha : float
        Rate of false discoveries (Benjamini and Hochberg), over both tails if `two_sided`.

    Returns
    -------
    float
        Infinite if no voxel is significant.
    """
    from nilearn.glm import fdr_threshold

    if two_sided:
        return float(fdr_threshold(np.abs(z), alpha / 2))
    return float(fdr_threshold(z, alpha))


def plot_z_maps(
    out_dir: Path,
    out_file: Path,
    alpha: float = 0.05,
    background: Any = None,
    outline: Any = None,
) -> list[DrawnContrast]:
    """Draw the z map of every contrast of a run, thresholded by its false discovery rate.

    T contrasts are thresholded at both tails, F contrasts at the upper one.

    Parameters
    ----------
    out_dir : path
        Folder of the maps.
    out_file : path
        Figure to write; its extension tells the format.
    alpha : float
        False discovery rate within each contrast.
    background : path or image, optional
        Anatomy to draw on; the MNI template if not given.
    outline : path or image, optional
        Regions to be outlined, such as regions of interest.

    Returns
    -------
    list of DrawnContrast
        One for each row of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out_dir = Path(out_dir)
    sidecars = sorted(out_dir.glob(f"contrasts/*{_SIDECAR_END}"))
    if not sidecars:
        raise FileNotFoundError(f"{out_dir} has no z map; it is not the outdir of a complete run.")
    figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(sidecars)), facecolor="white")
    FigureCanvasAgg(figure)
    rows = np.atleast_1d(figure.subplots(len(sidecars), 1))
    figure.subplots_adjust(0.01, 0.02, 0.97, 1 - 0.35 / (_ROW_HEIGHT * len(sidecars)), hspace=0.25)
    mask = _read(_find_map(out_dir / "blm_vox_mask")) > 0
    drawn = [
        _draw_row(row, path, mask, alpha, background, outline)
        for row, path in zip(rows, sidecars, strict=True)
    ]
    figure.savefig(out_file, dpi=110)
    return drawn
