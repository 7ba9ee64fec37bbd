"""Channels of a BOSS."""

from typing import TYPE_CHECKING

from nipype_blm.blockmap.openers.opened import Opened
from nipype_blm.blockmap.sources import Source

if TYPE_CHECKING:
    from nipype_blm.blockmap.boss.volumes import Volume


def open_boss(source: Source, name: str) -> Opened:
    """Open a channel of a BOSS."""
    from nipype_blm.blockmap.boss.client import BossArray

    array = BossArray(find_volume(source))
    voxel_size = list(map(float, array.voxel_size))
    return Opened(array, "zyx", voxel_size, str(array.voxel_unit or ""), bounds=array.extent)


def find_volume(source: Source) -> "Volume":
    """Return the volume of a BOSS that a source is."""
    from nipype_blm.blockmap.boss.volumes import parse_uri

    return parse_uri(source.path, **{"resolution": source.level, **source.options})
