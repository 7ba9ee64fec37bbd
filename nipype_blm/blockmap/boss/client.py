"""The client of a BOSS: intern's, asked such that each cut-out is one request.

`intern.array` opens a pool of processes for a large cut-out, which dies in a worker; drops axes of
one voxel; and waits for a silent server for ever.  What is here does none of these.
"""

import difflib
import os
from collections.abc import Callable
from typing import Any

import intern
import numpy as np
from intern.convenience.array import VolumeProvider
from intern.remote.boss import BossRemote
from intern.resource.boss.resource import (
    ChannelResource,
    CoordinateFrameResource,
    ExperimentResource,
)
from numpy.typing import NDArray

from nipype_blm.blockmap.boss.boxes import Box, find_place, split_box, tell_box
from nipype_blm.blockmap.boss.errors import NotFoundError, explained
from nipype_blm.blockmap.boss.volumes import Volume, is_this_machine
from nipype_blm.blockmap.tokens import read_token
from nipype_blm.errors import InputError, join_some, show

TIMEOUT_S = (10.0, 300.0)  # to connect, and between two parts of an answer
# intern cuts what is above 60.4 million voxels into requests of its own; a BOSS refuses 500 MB.
MOST_VOXELS = 60_000_000
MOST_BYTES = 400_000_000


class BossProvider(VolumeProvider):
    """What `intern.array` asks for voxels and for what is known of them."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._connect()

    def _connect(self) -> None:
        self._boss, self._process = connect(self.volume), os.getpid()

    @property
    def boss(self) -> BossRemote:
        """Client of intern; in a forked process a new one, since two cannot share a connection."""
        if self._process != os.getpid():
            self._connect()
        return self._boss

    def get_remote(self) -> BossRemote:
        """Return the client."""
        return self.boss

    def get_vp_type(self) -> str:
        """Return what intern calls a BOSS."""
        return "bossdb"

    def get_axis_order(self) -> str:
        """Return the order of axes of a cut-out."""
        return "ZYX"

    def get_channel(self, channel: str, collection: str, experiment: str) -> ChannelResource:
        """Return what is known of a channel."""
        return self.boss.get_channel(channel, collection, experiment)

    def get_project(self, resource: Any) -> Any:
        """Return what is known of an experiment or a frame."""
        return self.boss.get_project(resource)

    def get_cutout(
        self, channel: ChannelResource, resolution: int, xs: Any, ys: Any, zs: Any
    ) -> NDArray[Any]:
        """Return voxels; one request, in this process."""
        return self.boss.get_cutout(channel, resolution, xs, ys, zs, parallel=False)

    def create_cutout(
        self, channel: ChannelResource, resolution: int, xs: Any, ys: Any, zs: Any, data: Any
    ) -> None:
        """Write voxels whose sum is not 0."""
        self.boss.create_cutout(channel, resolution, xs, ys, zs, data)

    def blacken(self, channel: ChannelResource, resolution: int, xs: Any, ys: Any, zs: Any) -> None:
        """Write zeros."""
        self.boss.volume_service.create_cutout_to_black(channel, resolution, xs, ys, zs)


def connect(volume: Volume) -> BossRemote:
    """Return intern's client for the host of a volume; sends nothing yet."""
    remote = BossRemote(
        {
            "protocol": volume.protocol,
            "host": volume.host,
            "token": read_token(volume.token),
        }
    )
    for service in (remote.project_service, remote.volume_service):
        session = service.session
        options = session.merge_environment_settings(_find_url(volume), {}, None, None, None)
        if is_this_machine(volume.host):
            options["proxies"] = {}
        service.session_send_opts = {**options, "timeout": TIMEOUT_S}
        # Proxies and certificates are in the options; ~/.netrc would take the token's place.
        session.trust_env = False
    return remote


def _find_url(volume: Volume) -> str:
    return f"{volume.protocol}://{volume.host}"


class BossArray(intern.array):
    """A volume of a BOSS as an array that is read when it is indexed by slices of z, y and x.

    Indices are coordinates of the frame, which need not begin at 0: `shape` gives where it stops,
    and what lies before its start (see `extent`) cannot be read.

    Parameters
    ----------
    volume : Volume
        A pickle holds this alone; the volume is opened again where it is read.

    Raises
    ------
    InputError
        If the server knows no such volume, or does not let this token see it.
    OSError
        If it does not answer, or is too busy: may be tried again.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        provider = BossProvider(volume)
        try:
            with explained(volume, f"channel {volume}"):
                channel = provider.get_channel(volume.channel, volume.collection, volume.experiment)
                experiment = provider.get_project(
                    ExperimentResource(volume.experiment, volume.collection)
                )
                frame = provider.get_project(CoordinateFrameResource(experiment.coord_frame))
        except NotFoundError:
            reason = _explain_missing(volume, provider.boss)
            raise InputError(reason) from None
        super().__init__(channel, resolution=volume.resolution, volume_provider=provider)
        self._experiment, self._frame = experiment, frame
        self._check_resolution()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.volume,)

    def __repr__(self) -> str:
        return f"BossArray({self.volume!r})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return np.dtype(self._channel.datatype)

    @property
    def ndim(self) -> int:
        """Number of axes: z, y and x."""
        return 3

    @property
    def extent(self) -> Box:
        """Start and stop of z, y and x: coordinates, in voxels of this resolution."""
        edges = [
            (getattr(self._frame, f"{axis}_start"), getattr(self._frame, f"{axis}_stop"))
            for axis in "zyx"
        ]
        return tuple(
            (start // factor, -(-stop // factor))  # a BOSS rounds up
            for (start, stop), factor in zip(edges, self._factors, strict=True)
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Where z, y and x stop; they need not start at 0, see `extent`."""
        z, y, x = (stop for _, stop in self.extent)
        return z, y, x

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Size of a voxel along z, y and x, in `voxel_unit`."""
        z, y, x = (
            getattr(self._frame, f"{axis}_voxel_size") * factor
            for axis, factor in zip("zyx", self._factors, strict=True)
        )
        return z, y, x

    @property
    def voxel_unit(self) -> str:
        """Such as "nanometers"."""
        return str(self._frame.voxel_unit)

    @property
    def _factors(self) -> tuple[int, int, int]:
        """How many voxels of the frame there are along a voxel: z, y, x."""
        factor = 2**self.resolution
        isotropic = self._experiment.hierarchy_method == "isotropic"
        return (factor if isotropic else 1), factor, factor

    def _check_resolution(self) -> None:
        first = self._channel.base_resolution
        last = first + self._experiment.num_hierarchy_levels - 1
        if not first <= self.resolution <= last:
            has = f"{first} to {last}" if last > first else f"{first} alone"
            raise InputError(
                f"{self.volume} of {self.volume.host} has no resolution {self.resolution}: it has "
                f"{has}."
            )

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return voxels as an array of their own.

        Parameters
        ----------
        key : tuple of three slices
            Of z, y and x, in coordinates; one without start or stop begins or ends as the frame.

        Raises
        ------
        InputError
            If they lead out of the frame.
        """
        box = self._find_box(key)
        voxels = np.empty([stop - start for start, stop in box], self.dtype)
        for part in split_box(box, self._most_voxels):
            voxels[find_place(part, box)] = self._read(part)
        return voxels

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("a volume of a BOSS is written by its method write")

    @property
    def _most_voxels(self) -> int:
        return min(MOST_VOXELS, MOST_BYTES // self.dtype.itemsize)

    def _find_box(self, key: Any) -> Box:
        if not isinstance(key, tuple) or len(key) != 3:
            raise TypeError("a volume of a BOSS is indexed by three slices: z, y and x")
        if not all(isinstance(each, slice) and each.step in (None, 1) for each in key):
            raise TypeError("a volume of a BOSS is indexed by slices of step 1")
        box = tuple(
            (
                start if each.start is None else int(each.start),
                stop if each.stop is None else int(each.stop),
            )
            for each, (start, stop) in zip(key, self.extent, strict=True)
        )
        self._check_inside(box)
        return box

    def _check_inside(self, box: Box) -> None:
        for (start, stop), (first, last) in zip(box, self.extent, strict=True):
            if not first <= start < stop <= last:
                raise InputError(
                    f"{tell_box(box)} does not lie in {self.volume} of {self.volume.host}, which "
                    f"has {tell_box(self.extent)} at resolution {self.resolution}."
                )

    def _read(self, box: Box) -> NDArray[Any]:
        with explained(self.volume, f"{tell_box(box)} of {self.volume}"):
            return self.volume_provider.get_cutout(self._channel, self.resolution, *reversed(box))

    def check_writable(self, dtype: Any) -> None:
        """Refuse a type of voxels, or a volume, that a BOSS would not write.

        Raises
        ------
        InputError
            If the channel cannot hold every value of the type, or nothing can be written to it at
            this resolution.
        """
        volume, base = self.volume, self._channel.base_resolution
        if not np.can_cast(np.dtype(dtype), self.dtype, "safe"):
            raise InputError(
                f"{volume} of {volume.host} holds {self.dtype}, which has no place for every "
                f"{np.dtype(dtype)} (a BOSS has uint8, uint16 and uint64): convert what is "
                f"written, such as by `.astype('{self.dtype}')`."
            )
        if self._channel.raw.get("storage_type") == "cloudvol":
            raise InputError(
                f"{volume} of {volume.host} is stored as a CloudVolume, which a BOSS only reads: "
                "write to another channel."
            )
        if self.resolution not in (base, base + 1):
            raise InputError(
                f"Resolution {self.resolution} of {volume} cannot be written: a BOSS takes "
                f"voxels at {base} or {base + 1}."
            )

    def write(self, start: tuple[int, int, int], data: Any) -> None:
        """Write voxels, zeros among them.

        Parameters
        ----------
        start : tuple of int
            Coordinates of the first voxel: z, y, x.
        data : array of shape (z, y, x)
            See `check_writable` for its type.

        Raises
        ------
        InputError
            If it does not lie in the frame, or the server does not let this token write.
        OSError
            If the server does not answer, or is too busy: may be tried again.
        """
        data = np.asarray(data)
        if data.ndim != 3:
            raise InputError(
                f"An array of shape {data.shape} came to be written to {self.volume}: expected "
                "three axes, z, y and x."
            )
        self.check_writable(data.dtype)
        data = data.astype(self.dtype, copy=False)
        box = tuple((int(a), int(a) + n) for a, n in zip(start, data.shape, strict=True))
        self._check_inside(box)
        for part in split_box(box, self._most_voxels):
            with explained(self.volume, f"to write {tell_box(part)} of {self.volume}"):
                self._write(part, data[find_place(part, box)])

    def _write(self, box: Box, data: NDArray[Any]) -> None:
        # A BOSS keeps the voxels that it has where zeros are sent to it.
        if not data.all() and self._read(box)[data == 0].any():
            self._blacken(box, data == 0)
        # intern sends nothing whose sum is 0, to which large labels can overflow.
        if data.any() and data.sum() == 0:
            for half in split_box(box, data.size // 2):
                self._write(half, data[find_place(half, box)])
        elif data.any():
            self.volume_provider.create_cutout(self._channel, self.resolution, *reversed(box), data)

    def _blacken(self, box: Box, zeros: NDArray[np.bool_]) -> None:
        self.volume_provider.blacken(self._channel, self.resolution, *reversed(box))
        # A BOSS does that later, but reading waits for it; what is sent before would be lost.
        if self._read(box)[zeros].any():
            raise OSError(f"{self.volume.host} has not cleared {tell_box(box)} of {self.volume}")


def list_channels(volume: Volume) -> list[str]:
    """Return all channels of a volume's experiment."""
    remote = connect(volume)
    what = f"the channels of {volume.collection}/{volume.experiment}"
    try:
        with explained(volume, what):
            return list(remote.list_channels(volume.collection, volume.experiment))
    except NotFoundError:
        reason = _explain_missing(volume, remote)
    raise InputError(reason)


def _explain_missing(volume: Volume, remote: BossRemote) -> str:
    """Return which of a volume's names the server does not have, and which it has."""
    levels: list[tuple[str, str, str, Callable[[], list[str]]]] = [
        (
            "channel",
            volume.channel,
            f" in {volume.collection}/{volume.experiment}",
            lambda: remote.list_channels(volume.collection, volume.experiment),
        ),
        (
            "experiment",
            volume.experiment,
            f" in {volume.collection}",
            lambda: remote.list_experiments(volume.collection),
        ),
        ("collection", volume.collection, "", remote.list_collections),
    ]
    for what, name, where, list_names in levels:
        try:
            with explained(volume, f"the list of each {what}{where}"):
                names = list_names()
        except InputError:
            continue
        if name not in names:
            near = difflib.get_close_matches(name, names)
            guess = f" (did you mean {' or '.join(near)}?)" if near else ""
            has = f"it has {join_some(sorted(names))}" if names else "it has none"
            return f"{volume.host} has no {what} {show(name)}{where}{guess}: {has}."
    return f"{volume.host} has no {volume}, or no frame for it: look at its names."
