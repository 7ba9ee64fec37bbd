"""Which volume of a BOSS is meant: its address, and where its token is."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nipype_blm.blockmap.tokens import PUBLIC, check_place, find_section, read_ini
from nipype_blm.errors import InputError, show

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
