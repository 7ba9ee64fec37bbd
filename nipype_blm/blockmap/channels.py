"""Channels: what a source has, read by boxes of z, y, x whatever store it is in."""

import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import AXES, Extent, Triple
from nipype_blm.blockmap.openers.arrays import describe_array
from nipype_blm.blockmap.openers.kinds import check_fields, open_source
from nipype_blm.blockmap.openers.opened import Opened
from nipype_blm.blockmap.sources import Source, stamp_source
from nipype_blm.errors import InputError, join_some, show

# What hands out arrays that others may have, too.
_SHARING = ("array", "python")


class Channel:
    """An array-like, read by boxes of z, y, x whatever the order of its axes is.

    Parameters
    ----------
    opened : Opened
    source : Source
    name : str
        By which messages call it.

    Raises
    ------
    InputError
        If axes are unclear, or a position along one of them is out of its range.
    """

    def __init__(self, opened: Opened, source: Source, name: str) -> None:
        self.opened, self.source, self.name = opened, source, name
        self._array = opened.array
        self.dtype = _find_dtype(opened.array)
        shape = [int(n) for n in opened.array.shape]
        self._axes = self._choose_axes(shape)
        # Start and stop along all axes.
        self._bounds = dict(zip(self._axes, opened.bounds or [(0, n) for n in shape], strict=True))
        self._at = self._choose_places()
        self._kept = [a for a in self._axes if a not in AXES and a not in self._at]

    def _choose_axes(self, shape: list[int]) -> str:
        """Return a letter for each axis of the array."""
        axes = (self.source.axes or self.opened.axes).lower()
        if len(axes) == len(shape) == len(set(axes)) and set(axes) & set(AXES):
            return axes
        sizes = f"{self.name} has {len(shape)} axes of {' x '.join(map(str, shape))} voxels"
        if self.source.opener == "array":
            raise InputError(
                f"{sizes}; expected an array of z, y, x: give a part of it, such as array[0]."
            )
        said = f"its axes are {show(axes)}" if axes else "nothing says which is which"
        guess = "".join("tcn"[: max(0, len(shape) - 3)]) + "zyx"[-len(shape) :]
        raise InputError(
            f"{sizes}, and {said}; give axes, a letter for each in the order of the array, with "
            f"z, y and x among them, such as {guess}."
        )

    def _choose_places(self) -> dict[str, int]:
        """Return where to stay along the axes that are not read whole."""
        at = {str(axis).lower(): place for axis, place in self.source.at.items()}
        if self.source.channel is not None:
            at["c"] = self._find_channel(self.source.channel)
        unknown = [a for a in (*at, *self.source.keep) if a not in self._axes or a in AXES]
        if unknown:
            raise InputError(
                f"{self.name} has no further axis {unknown[0]}; its axes are {self._axes}: leave "
                f"{unknown[0]} out of channel, at and keep."
            )
        twice = [axis for axis in at if axis in self.source.keep]
        if twice:
            raise InputError(
                f"{self.name} was asked for all places along axis {twice[0]} and for place "
                f"{at[twice[0]]}; give one of both."
            )
        places = {}
        for axis in self._axes:
            if axis not in AXES and axis not in self.source.keep:
                places[axis] = self._choose_place(axis, at.get(axis))
        return places

    def _choose_place(self, axis: str, given: int | None) -> int:
        """Return where to stay along one axis."""
        start, stop = self._bounds[axis]
        if given is None and stop - start == 1:
            return start
        places = f"{stop - start} places along axis {axis}, {start} to {stop - 1}"
        if given is None:
            labels = self.opened.labels if axis == "c" else ()
            named = f" ({join_some(labels)})" if any(labels) else ""
            choice = f"channel: {start}" if axis == "c" else f"at: {{{axis}: {start}}}"
            raise InputError(
                f"{self.name} has {places}{named}; choose one, with `{choice}`, or have the "
                f"function get all of them, with `keep: {axis}`."
            )
        if not start <= given < stop:
            raise InputError(
                f"{self.name} was asked for place {given} along axis {axis}; it has {places}."
            )
        return int(given)

    def _find_channel(self, given: int | str) -> int:
        if isinstance(given, int):
            return given
        if given in self.opened.labels:
            return list(self.opened.labels).index(given)
        raise InputError(
            f"{self.name} has no channel {show(given)}; it has "
            f"{join_some(self.opened.labels) or 'channels without labels: give a number'}."
        )

    @property
    def extent(self) -> Extent:
        """Start and stop along z, y, x, in voxels."""
        return {axis: self._bounds.get(axis, (0, 1)) for axis in AXES}

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        z, y, x = (stop - start for start, stop in self.extent.values())
        return z, y, x

    @property
    def chunks(self) -> Triple | None:
        """Voxels of what the store reads at once along z, y, x; None if it has no such thing."""
        if self.opened.chunks is None:
            return None
        sizes = dict(zip(self._axes, self.opened.chunks, strict=True))
        z, y, x = (int(sizes.get(axis, 1)) for axis in AXES)
        return z, y, x

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Length of a voxel along z, y, x, in `opened.unit`; 1 where it is not known."""
        return self._pick(self.opened.voxel_size, 1.0)

    @property
    def origin(self) -> tuple[float, float, float]:
        """Where voxel 0 is along z, y, x, in `opened.unit`."""
        return self._pick(self.opened.origin, 0.0)

    def _pick(self, values: Any, other: float) -> tuple[float, float, float]:
        known = dict(zip(self._axes, values, strict=False))
        z, y, x = (float(known.get(axis, other)) for axis in AXES)
        return z, y, x

    @property
    def n_bytes(self) -> int:
        """Bytes at each voxel."""
        return self.dtype.itemsize * self.n_kept

    @property
    def n_kept(self) -> int:
        """Values at each voxel."""
        return int(np.prod(self._kept_shape, dtype=int))

    @property
    def _kept_shape(self) -> list[int]:
        return [self._bounds[axis][1] - self._bounds[axis][0] for axis in self._kept]

    def read(self, start: Triple, stop: Triple) -> NDArray[Any]:
        """Return a box; axes that are kept whole come before z, y, x.

        The array is the caller's own, in the byte order of this machine, and can be changed.
        """
        ranges = dict(zip(AXES, zip(start, stop, strict=True), strict=True))
        index = tuple(
            slice(*ranges[axis]) if axis in AXES else self._at.get(axis, self._keep_all(axis))
            for axis in self._axes
        )
        values = np.asarray(self._array[index])
        left = [axis for axis in self._axes if axis not in self._at]
        order = [*self._kept, *(axis for axis in AXES if axis in left)]
        values = values.transpose([left.index(axis) for axis in order])
        # With the axes that the store does not have.
        values = values.reshape(*self._kept_shape, *(b - a for a, b in ranges.values()))
        is_shared = self.source.opener in _SHARING or not values.flags.writeable
        convert = np.array if is_shared else np.asarray
        return convert(values, self.dtype, order="C")

    def _keep_all(self, axis: str) -> slice:
        return slice(*self._bounds[axis])


def _find_dtype(array: Any) -> np.dtype[Any]:
    """Return the type of voxels as `Channel.read` gives them."""
    dtype = getattr(array.dtype, "numpy_dtype", array.dtype)  # of TensorStore
    return np.dtype(dtype).newbyteorder("=")


def open_channel(source: Source | Any, name: str) -> Channel:
    """Open a source, or take an array-like as it is.

    Raises
    ------
    InputError
        If it is not there, or cannot be read.
    """
    if not isinstance(source, Source):
        opened = describe_array(source, name)
        return Channel(opened, Source(type(source).__name__, "array"), name)
    check_fields(source, name)
    # What was opened before may be of another token by now.
    _opened.pop(_identify(source, name), None)
    stamp = stamp_source(source)
    channel = Channel(open_source(source, name), source, name)
    # A file that is only looked at is not held open; a BOSS would be asked for all of it again.
    return _remember(channel, stamp) if source.opener == "boss" else channel


_MOST_OPENED = 64
# Each with its stamp; the last one is the newest.
_opened: dict[tuple[str, str, int], tuple[Channel, Any]] = {}


def _identify(source: Source, name: str) -> tuple[str, str, int]:
    # A process that was forked shares the place in an open file with its parent.
    return json.dumps(source.describe(), sort_keys=True, default=repr), name, os.getpid()


def _remember(channel: Channel, stamp: Any) -> Channel:
    _opened[_identify(channel.source, channel.name)] = channel, stamp
    for old in list(_opened)[:-_MOST_OPENED]:
        _opened.pop(old, None)
    return channel


def reopen_channel(source: Source, name: str) -> Channel:
    """Return a channel that this process has opened before, or open it.

    Opening reads metadata, of a remote store over the network: once for each process, and again
    where the files were written anew.
    """
    stamp = stamp_source(source)
    channel, known = _opened.get(_identify(source, name), (None, None))
    if channel is not None and stamp == known:
        return channel
    del channel  # a library may know an open file by its name alone
    return _remember(open_channel(source, name), stamp)
