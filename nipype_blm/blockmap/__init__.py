"""A function over blocks of volumes that are too big for one machine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nipype_blm.blockmap.blocks import Block, compute_blocks
    from nipype_blm.blockmap.run import map_blocks

__all__ = ["Block", "compute_blocks", "map_blocks"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: interfaces need only a part of this package at their start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nipype_blm.blockmap import blocks, run

    return getattr(run if name == "map_blocks" else blocks, name)
