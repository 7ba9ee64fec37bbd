"""What a ``neurodata.cfg``, the configuration of Nd-Multicore, asks a BOSS for."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype_blm.blockmap.blocks import AXES
from nipype_blm.blockmap.boss.volumes import Volume
from nipype_blm.blockmap.tokens import find_section, read_ini, read_token
from nipype_blm.errors import InputError, show


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
    from nipype_blm.blockmap.boss.client import list_channels

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
