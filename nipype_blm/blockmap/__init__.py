"""A function over blocks of volumes that are too big for one machine."""

from nipype_blm.blockmap.blocks import Block, compute_blocks
from nipype_blm.blockmap.run import map_blocks

__all__ = ["Block", "compute_blocks", "map_blocks"]
