"""Volumes in a BOSS, such as BossDB: which one is meant, and what is told about it.

What talks to the server is in `bossclient`, which needs the package intern.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype_blm.blockmap.tokens import (
    PUBLIC,
    check_place,
    find_section,
    read_ini,
    read_token,
    redact,
)
from nipype_blm.errors import InputError, show

if TYPE_CHECKING:
    from nipype_blm.blockmap.bossclient import BossArray

__all__ = [
    "Config",
    "Volume",
    "check_writable",
    "find_extent",
    "list_notices",
    "open_volume",
    "parse_uri",
    "read_config",
    "read_token",
    "redact",
    "write_region",
]

AXES = ("z", "y", "x")
_PUBLIC_HOST = "api.bossdb.io"
_INTERN_CONFIG = Path("~/.intern/intern.cfg")
_SCHEMES = ("bossdb://", "boss://")
_NAME = re.compile(r"[\w-]+", re.ASCII)
_HOST = re.compile(r"[^\s/?#%@]+")


@dataclass(frozen=True)
class Volume:
    """A channel of a BOSS at one resolution.

    Parameters
    ----------
    collection, experiment, channel : str
        Its names.
    host : str
        Such as ``api.bossdb.io``, or ``localhost:8000``.
    protocol : str
        "https", or "http".
    resolution : int
        Level of its pyramid; 0 is that of the frame.
    token : str
        Where the token is, never the token: ``file:PATH``, ``env:NAME`` or ``public``.

    Raises
    ------
    InputError
        If one of these cannot be.
    """

    collection: str
    experiment: str
    channel: str
    host: str
    protocol: str = "https"
    resolution: int = 0
    token: str = PUBLIC

    def __post_init__(self) -> None:
        check_place(self.token)
        for what in ("collection", "experiment", "channel"):
            name = getattr(self, what)
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InputError(
                    f"{what} {show(name)} is no name that a BOSS can have: expected letters, "
                    "digits, _ and -."
                )
        if not isinstance(self.host, str) or not _HOST.fullmatch(self.host):
            raise InputError(
                f"host {show(self.host)} is no name of a host: give it alone, such as "
                f"{_PUBLIC_HOST}, and its protocol apart."
            )
        if self.protocol not in ("http", "https"):
            raise InputError(f"protocol {show(self.protocol)} is neither https nor http.")
        if type(self.resolution) is not int or self.resolution < 0:
            raise InputError(f"resolution {show(self.resolution)} is no number from 0 on.")

    def __str__(self) -> str:
        return f"{self.collection}/{self.experiment}/{self.channel}"


@dataclass(frozen=True)
class Config:
    """What a ``neurodata.cfg`` asks for.

    Parameters
    ----------
    volumes : dict of Volume
        By channel.
    ranges : dict or None
        Start and stop of z, y and x, in voxels; None if the file has none.
    """

    volumes: dict[str, Volume]
    ranges: dict[str, tuple[int, int]] | None = field(default=None)


def read_config(path: str | os.PathLike[str], token: str | None = None) -> Config:
    """Return what a configuration of Nd-Multicore asks for.

    Parameters
    ----------
    path : path
        Has ``[Default]`` with host, token and, if it is not https, protocol; and ``[Parallel]``
        with collection, experiment, channels and, perhaps, x_range, y_range and z_range.  No
        channels means all of the experiment, for which the server is asked.
    token : str, optional
        Where the token is, as `Volume` has it, in place of the one in the file.

    Raises
    ------
    InputError
        If something is missing, or cannot be.  Shows nothing of the token.
    """
    path = Path(path).expanduser().absolute()
    parser = read_ini(path)
    default, parallel = find_section(parser, "Default"), find_section(parser, "Parallel")
    place = token or f"file:{path}"
    read_token(place)

    def get(section: Mapping[str, str], name: str, key: str) -> str:
        if not section.get(key, "").strip():
            raise InputError(f"{path} has no {key}: write `{key} = ...` under [{name}].")
        return section[key].strip()

    names: dict[str, Any] = {
        "collection": get(parallel, "Parallel", "collection"),
        "experiment": get(parallel, "Parallel", "experiment"),
        "host": get(default, "Default", "host"),
        "protocol": default.get("protocol", "").strip().lower() or "https",
        "token": place,
    }
    ranges = _read_ranges(path, parallel)
    channels = [each.strip() for each in parallel.get("channels", "").split(",") if each.strip()]
    volumes = {each: Volume(channel=each, **names) for each in channels or _list_channels(names)}
    return Config(volumes, ranges)


def _list_channels(names: Mapping[str, Any]) -> list[str]:
    from nipype_blm.blockmap.bossclient import list_channels

    experiment = Volume(channel="-", **names)
    channels = list_channels(experiment)
    if not channels:
        raise InputError(
            f"The experiment {experiment.collection}/{experiment.experiment} of "
            f"{experiment.host} has no channel: name another, or add one."
        )
    return channels


def _read_ranges(path: Path, section: Mapping[str, str]) -> dict[str, tuple[int, int]] | None:
    given = {axis: section.get(f"{axis}_range", "").strip() for axis in AXES}
    if not any(given.values()):
        return None
    missing = [f"{axis}_range" for axis in AXES if not given[axis]]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}: give all three ranges, or none.")
    return {axis: _read_range(path, axis, text) for axis, text in given.items()}


def _read_range(path: Path, axis: str, text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(-?\d+)\s*,\s*(-?\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(
            f"{path}: {axis}_range = {show(text)} is no start and a stop above it, such as 0,1000."
        )
    return int(found[1]), int(found[2])


def parse_uri(
    uri: str,
    *,
    host: str | None = None,
    protocol: str | None = None,
    resolution: int | None = None,
    token: str | None = None,
) -> Volume:
    """Return the volume of a URI as intern has them.

    Parameters
    ----------
    uri : str
        ``bossdb://collection/experiment/channel``, perhaps with ``/resolution`` at its end, and a
        host (``bossdb://https://host/...`` or ``bossdb://host/...``) at its start.
    host, protocol, resolution, token : optional
        As `Volume` has them.  What neither these nor the URI say is looked up where intern does:
        $INTERN_HOST, $INTERN_PROTOCOL and $INTERN_TOKEN, else ``~/.intern/intern.cfg``, else
        BossDB and its public token.  $BOSS_TOKEN comes before these.  A token that was set for
        one host is not sent to another.

    Raises
    ------
    InputError
        If that is no such URI.
    """
    scheme = next((each for each in _SCHEMES if uri.startswith(each)), None)
    found = re.fullmatch(r"(?:(https?)://)?(.*)", uri.removeprefix(scheme or ""))
    parts = found[2].rstrip("/").split("/") if found else []
    if found and (found[1] or "." in parts[0] or ":" in parts[0]):
        named = parts.pop(0)
        host, protocol = host or named, protocol or found[1]
    if len(parts) == 4 and parts[3].isdecimal():
        level = int(parts.pop())
        resolution = resolution or level
    if scheme is None or len(parts) != 3:
        raise InputError(
            f"{show(uri)} is no volume of a BOSS: expected bossdb://collection/experiment/channel, "
            "or bossdb://https://host/collection/experiment/channel."
        )
    known = _find_settings(host)
    collection, experiment, channel = parts
    return Volume(
        collection,
        experiment,
        channel,
        host=host or known["host"],
        protocol=protocol or known["protocol"],
        resolution=resolution or 0,
        token=token or known["token"],
    )


def _find_settings(host: str | None) -> dict[str, str]:
    """Return host, protocol and place of the token as intern would, for one host if it is given."""
    config = _INTERN_CONFIG.expanduser()
    settings = {"host": _PUBLIC_HOST, "protocol": "https", "token": PUBLIC}
    if os.environ.get("INTERN_TOKEN"):
        settings["token"] = "env:INTERN_TOKEN"
        settings["host"] = os.environ.get("INTERN_HOST") or settings["host"]
        settings["protocol"] = os.environ.get("INTERN_PROTOCOL") or settings["protocol"]
    elif config.is_file():
        section = find_section(read_ini(config), "Default")
        settings.update({key: section[key] for key in ("host", "protocol") if section.get(key)})
        settings["token"] = f"file:{config}"
    if host not in (None, settings["host"]):
        settings = {"host": _PUBLIC_HOST, "protocol": "https", "token": PUBLIC}
    if os.environ.get("BOSS_TOKEN"):
        settings["token"] = "env:BOSS_TOKEN"
    return settings


def list_notices(volume: Volume) -> list[str]:
    """Return what a user should know before anything is sent: a token that others can read."""
    if volume.protocol == "https" or volume.token == PUBLIC or is_this_machine(volume.host):
        return []
    return [
        f"The token is sent to {volume.host} by http, which others on the way can read: set "
        "protocol = https if that host has it."
    ]


def is_this_machine(host: str) -> bool:
    """Return whether a host, with a port or without, is the machine that asks."""
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def open_volume(volume: Volume) -> "BossArray":
    """Return a volume as an array that is read when it is indexed by slices of z, y and x.

    Indices are coordinates of the frame, which need not begin at 0: `shape` gives where it stops,
    and what lies before its start (see `find_extent`) cannot be read.

    Raises
    ------
    InputError
        If the server knows no such volume, or does not let this token see it.
    OSError
        If it does not answer, or is too busy: may be tried again.
    """
    from nipype_blm.blockmap.bossclient import BossArray

    return BossArray(volume)


def find_extent(volume: "Volume | BossArray") -> dict[str, tuple[int, int]]:
    """Return start and stop of z, y and x, in voxels of the volume's resolution."""
    return dict(zip(AXES, _open(volume).extent, strict=True))


def check_writable(volume: "Volume | BossArray", dtype: Any) -> None:
    """Refuse a type of voxels, or a volume, that a BOSS would not write.

    Raises
    ------
    InputError
        If the channel cannot hold every value of the type, or nothing can be written to it at this
        resolution.
    """
    _open(volume).check_writable(dtype)


def write_region(volume: "Volume | BossArray", start: tuple[int, int, int], data: Any) -> None:
    """Write voxels, zeros among them.

    Parameters
    ----------
    volume : Volume or what `open_volume` returns
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
    _open(volume).write(start, data)


def _open(volume: "Volume | BossArray") -> "BossArray":
    return open_volume(volume) if isinstance(volume, Volume) else volume
