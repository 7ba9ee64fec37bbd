"""Where astrocytes touch each other, as ArchNGV reads it from the files of touchdetector."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError, join_some
from nipype_blm.io.files import replacing
from nipype_blm.ngv.circuit.capsules import (
    Capsules,
    Deepest,
    Floats,
    Indices,
    find_boxes,
    find_deepest,
    find_extents,
    find_nearest,
    iterate_near,
)
from nipype_blm.ngv.circuit.morphologies import SOMA, Segments
from nipype_blm.ngv.running import SUCCESS

# As touchdetector 5.4 and later have it, in 104 bytes; ArchNGV's reader wants these types.
TOUCH = np.dtype(
    [
        ("pre_ids", "<i4", 3),  # cell, section, segment
        ("post_ids", "<i4", 3),
        ("branch_order", "<i4"),
        ("distances", "<f4", 3),  # um: from the soma of the source, and along both segments
        ("pre_section_fraction", "<f4"),
        ("post_section_fraction", "<f4"),
        ("pre_position", "<f4", 3),  # on the surface of the source, um
        ("post_position", "<f4", 3),  # on the axis of the target, um
        ("spine_length", "<f4"),  # um, 0: what overlaps needs no spine
        ("branch_type", "u1"),  # 16 a + b, types of source and target, 0 for the soma
        ("pre_position_center", "<f4", 3),  # on the axis of the source, um
        ("post_position_surface", "<f4", 3),  # on the surface of the target, um
    ],
    align=True,
)
Touches = NDArray[np.void]

# What recipes of ArchNGV have, um; touchdetector draws distances from 5 to 7.
GAP = 5.0
SPACING = 6.0

_HEADER = np.dtype(
    [("architecture", "<f8"), ("n_cells", "<i8"), ("version", "S16")],
    align=True,
)
_ENTRY = np.dtype([("cell", "<i4"), ("n_touches", "<u4"), ("first_byte", "<i8")], align=True)
_ARCHITECTURE, _VERSION = 1.001, b"5.6.1"
_FILE_NAME = re.compile(r"touches(?:Data)?\.(\d+)")


class Overlaps(NamedTuple):
    """Pairs of segments of two cells that overlap, in the order of sections of the source."""

    rows: Indices  # (n,), segments of the source
    other_rows: Indices  # (n,), segments of the target
    depths: Floats  # (n,), um
    starts: Floats  # (n,), um from the start of the section of the source
    stops: Floats  # (n,)

    def take(self, rows: Indices) -> "Overlaps":
        """Return some of them."""
        starts, stops = self.starts[rows], self.stops[rows]
        return Overlaps(self.rows[rows], self.other_rows[rows], self.depths[rows], starts, stops)


def measure_cells(cells: Sequence[Segments]) -> Floats:
    """Return the boxes around cells, of shape (n_cells, 2, 3), um: lower and upper corners."""
    boxes = np.empty((len(cells), 2, 3))
    for cell in range(len(cells)):
        boxes[cell] = _enclose(find_boxes(cells[cell].capsules))
    return boxes


def find_touches(
    cells: Sequence[Segments],
    sources: Iterable[int],
    min_overlap: float = 0.0,
    gap: float = GAP,
    spacing: float = SPACING,
    boxes: Floats | None = None,
) -> Touches:
    """Find where some cells touch all others.

    Parameters
    ----------
    cells : sequence of Segments
        All of the circuit, such as `Cells`, of which only neighbours of the sources are read.
    sources : iterable of int
        Numbers of cells.
    min_overlap : float
        Capsules touch if they overlap by more than this, um.
    gap : float
        Overlaps of one section of the source with one target are one contact where they leave less
        than this between them along the section, um.
    spacing : float
        A contact has one touch, in its middle, or more if it is longer than 1.5 times this, um:
        in the middles of equal parts, of about this length.
    boxes : array of shape (n_cells, 2, 3), optional
        What `measure_cells` returns, which reads all cells.

    Returns
    -------
    array of `TOUCH`
        By source, target, and place on the source.  Those of a source do not depend on the others,
        so that sources can be shared out to workers in any way.  Each contact is found from either
        of its cells, and so is in both directions, but not always at the same places: contacts
        are those of a section of the source.  Cells do not touch themselves; nor do two somata.

    Raises
    ------
    InputError
        If there is no such source, or an option is not in its range.

    Notes
    -----
    The rules by which overlaps become touches are those of touchdetector, published as
    Appositionizer [1]_, with four differences.  There, segments are cylinders of the mean radius,
    and overlap if one of 350 points on the surface of the smaller is in the larger; places along a
    segment are rounded to 1/255; the distances between touches of a long contact are random; and
    the place on the target is as far along the overlap as that on the source.  Here it is where
    the target is nearest.

    References
    ----------
    .. [1] https://github.com/BlueBrain/appositionizer, doc/source/algorithm.rst
    """
    sources = sorted(set(sources))
    _check_options(sources, len(cells), min_overlap, gap, spacing)
    boxes = measure_cells(cells) if boxes is None else boxes
    found = [np.empty(0, TOUCH)]
    for source in sources:
        meets = (boxes[:, 0] < boxes[source, 1]) & (boxes[source, 0] < boxes[:, 1])
        for target in np.flatnonzero(meets.all(axis=1)).tolist():
            if target != source:
                first, second = cells[source], cells[target]
                overlaps = _find_overlaps(first, second, min_overlap)
                touches = _place(first, second, overlaps, gap, spacing)
                touches["pre_ids"][:, 0], touches["post_ids"][:, 0] = source, target
                found.append(touches)
    return np.concatenate(found)


def write_touches(folder: Path, number: int, touches: Touches) -> None:
    """Write the touches of some sources to ``touches.N`` and ``touchesData.N``.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    number : int
        N, which counts from 0.  ArchNGV reads files in this order.
    touches : array of `TOUCH`
        By source; may be empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUCCESS).unlink(missing_ok=True)
    cells, firsts, counts = np.unique(
        touches["pre_ids"][:, 0], return_index=True, return_counts=True
    )
    records = np.zeros(len(touches), TOUCH)
    for name in TOUCH.names or ():  # a copy of all may have anything in the bytes between fields
        records[name] = touches[name]
    header = np.array([(_ARCHITECTURE, len(cells), _VERSION)], _HEADER)
    index = np.empty(len(cells), _ENTRY)
    index["cell"], index["n_touches"] = cells, counts
    index["first_byte"] = firsts * TOUCH.itemsize
    with replacing(folder / f"touchesData.{number}") as file:
        file.write(records.tobytes())
    with replacing(folder / f"touches.{number}") as file:
        file.write(header.tobytes() + index.tobytes())


def finish_touches(folder: Path, n_files: int) -> None:
    """Say that all files of touches are there; remove those of an earlier run that had more.

    Parameters
    ----------
    folder : Path
        To which `write_touches` wrote the numbers 0 to ``n_files - 1``.
    n_files : int

    Raises
    ------
    InputError
        If one is missing, or there are none.
    """
    needed = [f"{stem}.{n}" for n in range(n_files) for stem in ("touches", "touchesData")]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing or not needed:
        raise InputError(
            f"{folder} lacks {join_some(missing) or 'all files of touches'}: find touches again."
        )
    for path in list(folder.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if match and int(match[1]) >= n_files:
            path.unlink()
    with replacing(folder / SUCCESS):
        pass


def read_touches(folder: Path) -> Touches:
    """Return the touches of all files in a folder, in the order of their numbers."""
    matches = [_FILE_NAME.fullmatch(path.name) for path in folder.glob("touchesData.*")]
    numbers = sorted(int(match[1]) for match in matches if match)
    parts = [np.fromfile(folder / f"touchesData.{number}", TOUCH) for number in numbers]
    return np.concatenate([np.empty(0, TOUCH), *parts])


def _find_overlaps(first: Segments, second: Segments, min_overlap: float) -> Overlaps:
    """Return the pairs of segments that overlap, and where on the first."""
    rows, other_rows = _crop(first.capsules, second.capsules)
    some, others = first.capsules.take(rows), second.capsules.take(other_rows)
    kept = [(np.empty(0, np.int64), np.empty(0, np.int64), Deepest(*np.empty((3, 0))))]
    for near, other_near in iterate_near(some, others):
        is_pair = ~((rows[near] == 0) & (other_rows[other_near] == 0))  # two somata
        near, other_near = near[is_pair], other_near[is_pair]
        deepest = find_deepest(some.take(near), others.take(other_near))
        deep = deepest.overlap > min_overlap
        kept.append(
            (rows[near[deep]], other_rows[other_near[deep]], Deepest(*(x[deep] for x in deepest)))
        )
    row, other_row = (np.concatenate([part[i] for part in kept]) for i in (0, 1))
    depth, inside, _ = (np.concatenate(x) for x in zip(*(part[2] for part in kept), strict=True))
    extents = find_extents(first.capsules.take(row), second.capsules.take(other_row), inside)
    starts, stops = first.offsets[row] + (extents * first.lengths[row, None]).T
    order = np.lexsort((other_row, row, starts, first.section_ids[row]))
    return Overlaps(row, other_row, depth, starts, stops).take(order)


def _crop(first: Capsules, second: Capsules) -> tuple[Indices, Indices]:
    """Return which capsules of either are in the box of the other."""
    boxes, other_boxes = find_boxes(first), find_boxes(second)
    rows = _meet(boxes, _enclose(other_boxes))
    if not len(rows):
        return rows, rows
    return rows, _meet(other_boxes, _enclose(boxes[rows]))


def _meet(boxes: Floats, box: Floats) -> Indices:
    is_in = (boxes[:, 0] <= box[1]) & (box[0] <= boxes[:, 1])
    return np.flatnonzero(is_in.all(axis=1))


def _enclose(boxes: Floats) -> Floats:
    return np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])


def _place(
    first: Segments, second: Segments, overlaps: Overlaps, gap: float, spacing: float
) -> Touches:
    """Return the touches of two cells, without their numbers."""
    if not len(overlaps.rows):
        return np.empty(0, TOUCH)
    begins, ends = _find_contacts(first.section_ids[overlaps.rows], overlaps, gap)
    starts = overlaps.starts[begins]
    lengths = np.maximum.reduceat(overlaps.stops, begins) - starts
    n_touches = np.maximum(1, np.floor(lengths / spacing + 0.5).astype(np.int64))
    contact = np.repeat(np.arange(len(begins)), n_touches)
    nth = np.arange(len(contact)) - np.repeat(np.cumsum(n_touches) - n_touches, n_touches)
    places = starts[contact] + (nth + 0.5) * (lengths / n_touches)[contact]
    chosen = overlaps.take(_choose(overlaps, places, begins[contact], ends[contact]))
    # Where a contact is interrupted nothing touches: the middle of the nearest overlap does.
    is_around = (chosen.starts <= places) & (places <= chosen.stops)
    places = np.where(is_around, places, (chosen.starts + chosen.stops) / 2)
    return _describe(first, second, chosen, places)


def _find_contacts(sections: Indices, overlaps: Overlaps, gap: float) -> tuple[Indices, Indices]:
    """Return where contacts begin and end among the overlaps, which come by section and start."""
    is_new = np.ones(len(sections), bool)
    # The furthest stop so far of each section; sections follow each other on one long line.
    shift = np.cumsum(np.append(0, np.diff(sections) != 0)) * (overlaps.stops.max() + 1)
    furthest = np.maximum.accumulate(overlaps.stops + shift) - shift
    is_new[1:] = (np.diff(sections) != 0) | (overlaps.starts[1:] - furthest[:-1] >= gap)
    begins = np.flatnonzero(is_new)
    return begins, np.append(begins[1:], len(sections))


def _choose(overlaps: Overlaps, places: Floats, begins: Indices, ends: Indices) -> Indices:
    """Return for each place the nearest overlap of its contact, the deepest of those around it."""
    n = ends - begins
    touch = np.repeat(np.arange(len(places)), n)
    row = np.arange(len(touch)) - np.repeat(np.cumsum(n) - n, n) + begins[touch]
    place = places[touch]
    away = np.maximum(0, np.maximum(overlaps.starts[row] - place, place - overlaps.stops[row]))
    order = np.lexsort((row, -overlaps.depths[row], away, touch))
    return row[order][np.cumsum(n) - n]


def _describe(first: Segments, second: Segments, chosen: Overlaps, places: Floats) -> Touches:
    """Return the records of touches at places along the sections of the source, um."""
    rows, other_rows = chosen.rows, chosen.other_rows
    ours, theirs = first.capsules.take(rows), second.capsules.take(other_rows)
    offsets = np.clip(places - first.offsets[rows], 0, first.lengths[rows])
    along = _divide(offsets, first.lengths[rows])
    center = ours.find_points(along)
    other_along = find_nearest(center, theirs)
    other_center = theirs.find_points(other_along)
    other_offsets = other_along * second.lengths[other_rows]
    surface = _find_surface(ours, along, other_center - center)
    other_surface = _find_surface(theirs, other_along, center - other_center)

    touches = np.zeros(len(rows), TOUCH)
    sides = (("pre", first, rows, offsets), ("post", second, other_rows, other_offsets))
    for side, cell, row, offset in sides:
        touches[f"{side}_ids"][:, 1] = cell.section_ids[row]
        touches[f"{side}_ids"][:, 2] = cell.segment_ids[row]
        touches[f"{side}_section_fraction"] = _divide(
            cell.offsets[row] + offset, cell.section_lengths[row]
        )
    touches["branch_order"] = first.orders[rows]
    soma_distances = first.soma_distances[rows] + first.offsets[rows] + offsets
    touches["distances"] = np.stack([soma_distances, offsets, other_offsets], axis=1)
    touches["pre_position"], touches["post_position"] = surface, other_center
    touches["pre_position_center"], touches["post_position_surface"] = center, other_surface
    types = (first.types[rows] - SOMA) << 4 | (second.types[other_rows] - SOMA) & 0xF
    touches["branch_type"] = types & 0xFF
    return touches


def _find_surface(capsules: Capsules, along: Floats, towards: Floats) -> Floats:
    """Return points on the surface: across the axis from a point on it, towards another one."""
    axes = capsules.ends - capsules.starts
    axes = _divide(axes, np.linalg.norm(axes, axis=1, keepdims=True))
    across = towards - (towards * axes).sum(axis=1, keepdims=True) * axes
    # End to end, nothing is left across; rounding leaves a billionth.
    reach = np.linalg.norm(towards, axis=1, keepdims=True)
    is_across = np.linalg.norm(across, axis=1, keepdims=True) > 1e-9 * reach
    direction = np.where(is_across, across, towards)
    direction = _divide(direction, np.linalg.norm(direction, axis=1, keepdims=True))
    return capsules.find_points(along) + direction * capsules.find_radii(along)[:, None]


def _divide(values: Floats, divisors: Floats) -> Floats:
    """Return quotients, and 0 where the divisor is 0."""
    return np.divide(values, divisors, out=np.zeros_like(values), where=divisors > 0)


def _check_options(
    sources: Sequence[int], n_cells: int, min_overlap: float, gap: float, spacing: float
) -> None:
    if sources and not 0 <= sources[0] <= sources[-1] < n_cells:
        raise InputError(
            f"Sources are {sources[0]} to {sources[-1]}, but the {n_cells} astrocytes have the "
            f"numbers 0 to {n_cells - 1}."
        )
    if not (min_overlap >= 0 and gap >= 0 and spacing > 0):
        raise InputError(
            f"min_overlap is {min_overlap:g}, gap {gap:g}, spacing {spacing:g} um: the first two "
            "must be 0 or more, and spacing above 0."
        )
