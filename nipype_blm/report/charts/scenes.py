"""Tubes, balls and surfaces in three dimensions, drawn as polygons from the far to the near."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray

# Shares of a radius, how near to the viewer they are, and how light: what makes a tube look round.
_LAYERS = ((1.0, 0.0, 0.78), (0.74, 0.6, 1.0), (0.36, 0.9, 1.18))
_N_CORNERS, _N_CORNERS_OF_TUBES = 40, 14  # of the polygons that circles are drawn as
_FOG = 0.55  # how white the farthest is


class View(NamedTuple):
    """From where a scene is seen: without perspective, so that a scale holds everywhere."""

    axes: FloatArray  # (3, 3), rows: to the right, up, and towards the viewer

    def flatten(self, points: FloatArray) -> FloatArray:
        """Return where points are in the picture, (..., 2)."""
        return np.asarray(points @ self.axes[:2].T)

    def find_depth(self, points: FloatArray) -> FloatArray:
        """Return how near to the viewer points are, (...)."""
        return np.asarray(points @ self.axes[2])


def look_along(axis: int) -> View:
    """Return the view along an axis; the two others are to the right and up, in their order."""
    right, up = (np.eye(3)[i] for i in range(3) if i != axis)
    return View(np.array([right, up, np.cross(right, up)]))


def look_aslant(azimuth: float = 30.0, elevation: float = 22.0) -> View:
    """Return a view in which all axes are seen, the y axis upright; angles in degrees."""
    a, e = np.radians([azimuth, elevation])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    near = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
    return View(np.array([right, np.cross(near, right), near]))


def look_at_widest(points: FloatArray) -> View:
    """Return the view in which points, (n, 3), are spread most."""
    _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    # The signs of singular vectors are free: the largest part of each is upwards or to the right.
    axes = axes * np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    return View(np.array([axes[0], axes[1], np.cross(axes[0], axes[1])]))


class Scene:
    """What is to be drawn in one view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._polygons: list[FloatArray] = []
        self._depths: list[FloatArray] = []
        self._colours: list[FloatArray] = []

    def add_tubes(
        self, starts: FloatArray, ends: FloatArray, radii: FloatArray, colour: str
    ) -> None:
        """Add truncated cones with round ends; points (n, 3), radii at both ends (n, 2)."""
        if not len(starts):
            return
        p, q = self.view.flatten(starts), self.view.flatten(ends)
        along = q - p
        length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        across = np.column_stack([-along[:, 1], along[:, 0]]) / length
        depth = self.view.find_depth((starts + ends) / 2)
        for share, nearer, light in _LAYERS:
            a, b = (share * r[:, None] * across for r in radii.T)
            near = depth + nearer * radii.mean(axis=1)
            self._add(np.stack([p + a, q + b, q - b, p - a], axis=1), near, colour, light)
        for points, radius in ((starts, radii[:, 0]), (ends, radii[:, 1])):
            self.add_balls(points, radius, colour, _N_CORNERS_OF_TUBES)

    def add_balls(
        self, middles: FloatArray, radii: FloatArray, colour: str, n_corners: int = _N_CORNERS
    ) -> None:
        """Add balls; middles (n, 3), radii (n,)."""
        if not len(middles):
            return
        angles = np.linspace(0, 2 * np.pi, n_corners, endpoint=False)
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        at, depth = self.view.flatten(middles)[:, None], self.view.find_depth(middles)
        for share, nearer, light in _LAYERS:
            polygons = at + share * radii[:, None, None] * circle
            self._add(polygons, depth + nearer * radii, colour, light)

    def add_triangles(self, corners: FloatArray, colour: str, lift: float = 1.0) -> None:
        """Add a surface of triangles, (n, 3, 3), those that are seen aslant darker.

        What lies on another surface is lifted from it towards the viewer.
        """
        if not len(corners):
            return
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        size = np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        facing = np.abs(normals @ self.view.axes[2]) / size
        depth = self.view.find_depth(corners.mean(axis=1)) + lift
        self._add(self.view.flatten(corners), depth, colour, 0.72 + 0.4 * facing)

    def draw(self, axis: Any, fog: float = _FOG) -> None:
        """Draw all of it, what is farther paler."""
        from matplotlib.collections import PolyCollection

        if not self._polygons:
            return
        depths = np.concatenate(self._depths)
        colours = np.concatenate(self._colours)
        low, high = np.percentile(depths, [1, 99])
        far = np.clip((high - depths) / max(high - low, 1e-9), 0, 1)[:, None] * fog
        colours = colours + (1 - colours) * far
        order = np.argsort(depths, kind="stable")
        polygons = [each for group in self._polygons for each in group]
        shades = colours[order]
        axis.add_collection(
            PolyCollection(
                [polygons[i] for i in order],
                facecolors=shades,
                edgecolors=shades,  # else seams between triangles are seen
                linewidths=0.15,
                rasterized=True,
            )
        )

    def _add(
        self, polygons: FloatArray, depths: FloatArray, colour: str, light: float | FloatArray
    ) -> None:
        from matplotlib.colors import to_rgb

        shade = np.broadcast_to(np.atleast_1d(light)[:, None], (len(polygons), 1))
        rgb = np.broadcast_to(np.array(to_rgb(colour)), (len(polygons), 3))
        # Above 1 is towards white, below it towards black.
        lighter = rgb + (1 - rgb) * np.clip(shade - 1, 0, 1) * 1.6
        self._polygons.append(polygons)
        self._depths.append(np.asarray(depths, float))
        self._colours.append(np.clip(np.where(shade > 1, lighter, rgb * shade), 0, 1))


def cut_triangles(corners: FloatArray, axis: int, at: float) -> FloatArray:
    """Return the lines in which triangles cross a plane.

    Parameters
    ----------
    corners : array of shape (n_triangles, 3, 3)
    axis : int
        Which the plane is upright on.
    at : float
        Where it is on that axis.

    Returns
    -------
    array of shape (n_lines, 2, 2)
        Both ends of each, by the two other axes.
    """
    others = [i for i in range(3) if i != axis]
    side = corners[:, :, axis] - at
    crossed = corners[(side > 0).any(axis=1) & (side <= 0).any(axis=1)]
    if not len(crossed):
        return np.zeros((0, 2, 2))
    # An edge is crossed where its ends are on both sides; two of the three are.
    starts, ends = crossed, np.roll(crossed, -1, axis=1)
    a, b = starts[:, :, axis] - at, ends[:, :, axis] - at
    is_crossed = (a > 0) != (b > 0)
    share = np.where(is_crossed, a / np.where(is_crossed, a - b, 1.0), 0.0)[:, :, None]
    points = (starts + share * (ends - starts))[:, :, others]
    return np.asarray(points[is_crossed].reshape(-1, 2, 2))


def find_hull(points: FloatArray) -> FloatArray | None:
    """Return the corners of the convex hull of points of a plane, in order; None if it is flat."""
    from scipy.spatial import ConvexHull, QhullError

    if len(points) < 3:
        return None
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:
        return None


def draw_scale(axis: Any, colour: str = "#222222") -> None:
    """Draw a bar of a round length in um, at the lower right of axes of equal scales."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    length = choose_round((right - left) / 4)
    x, y = right - 0.04 * (right - left), bottom + 0.035 * (top - bottom)
    axis.plot([x - length, x], [y, y], color=colour, linewidth=3, solid_capstyle="butt", zorder=9)
    label = axis.text(
        x - length / 2,
        y + 0.015 * (top - bottom),
        f"{length:g} µm",
        ha="center",
        va="bottom",
        color=colour,
        zorder=9,
    )
    _outline(label)


def _outline(text: Any) -> None:
    """Have a text stand out from what is below it."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def choose_round(length: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20 ... that is not above a length."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))


def colour_neighbours(neighbours: list[NDArray[np.int64]], n_colours: int) -> list[int]:
    """Return a colour for each of what has neighbours, other than theirs as far as that goes.

    Each in turn has the colour that fewest of its neighbours have.
    """
    found = [-1] * len(neighbours)
    for i, near in enumerate(neighbours):
        taken = np.bincount(
            [found[j] for j in near if j < len(found) and found[j] >= 0], minlength=n_colours
        )
        found[i] = int(taken.argmin())
    return found
