"""A picture of a TBSS: the skeleton on mean FA, and the images that were registered worst."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.tbss.group import choose_used
from nipype_blm.tbss.images import Volume, read_volume
from nipype_blm.tbss.options import FA
from nipype_blm.tbss.plan import Plan

_N_SLICES, _N_WORST = 6, 3
_TOP = 0.7  # FA that is white
_COLOUR = (0.1, 0.75, 0.3)


def draw_skeleton(plan: Plan, out_file: Path) -> Path:
    """Draw the skeleton, above its threshold, on mean FA and on the worst-registered images.

    Parameters
    ----------
    plan : Plan
        Of a TBSS that has ended.
    out_file : Path
        Ends in .png.
    """
    from matplotlib.figure import Figure

    mean = _open(plan.paths.mean_fa)
    inside = _open(plan.paths.skeleton_mask).data > 0.5
    heights = _choose_heights(inside)
    used, records = choose_used(plan)
    there = [i for i, record in enumerate(records) if not record.failure]
    worst = sorted(there, key=lambda i: records[i].correlation)[:_N_WORST]
    rows = [(f"mean FA of {len(used)} images; their right is on the right", mean.data)]
    for i in worst:
        name, r = records[i].name, records[i].correlation
        left_out = "" if i in used else ", left out"
        found = _open(plan.paths.find_standard(name, FA))
        rows.append((f"{name}: correlation {r:.3f} with the target{left_out}", found.data))
    figure = Figure(figsize=(2 * _N_SLICES, 2.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), _N_SLICES, squeeze=False)
    for row, (title, data) in zip(axes, rows, strict=True):
        row[0].set_title(title, loc="left", parse_math=False)
        for axis, k in zip(row, heights, strict=True):
            axis.imshow(_shade(data[:, :, k], inside[:, :, k]), origin="lower")
            axis.set_axis_off()
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_file, dpi=90, facecolor="white")
    return out_file


def _open(path: Path) -> Volume:
    """Read an image and turn its axes to right, front and top."""
    volume = read_volume(path)
    order = np.abs(volume.affine[:3, :3]).argmax(axis=0)
    data, affine = volume.data, volume.affine[:, [*np.argsort(order), 3]]
    data = data.transpose(np.argsort(order))
    for axis in range(3):
        if affine[axis, axis] < 0:
            data = np.flip(data, axis)
    return Volume(data, affine)


def _choose_heights(inside: NDArray[np.bool_]) -> Sequence[int]:
    """Return slices that cut the skeleton, but for its lowest tenth and its highest twentieth."""
    low, high = np.quantile(np.nonzero(inside)[2], (0.1, 0.95))
    return [int(k) for k in np.linspace(low, high, _N_SLICES)]


def _shade(fa: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a slice in gray with the skeleton in colour, (rows, columns, 3)."""
    gray = np.clip(fa.T / _TOP, 0, 1)[:, :, None].repeat(3, axis=2)
    gray[inside.T] = _COLOUR
    return np.asarray(gray, np.float64)
