"""Nodes whose cache can be trusted."""

from pathlib import Path
from typing import Any

from nipype.pipeline.engine import MapNode
from traits.trait_errors import TraitError

from nipype_blm.io.arrayfile import is_complete


class FileMapNode(MapNode):
    """A MapNode of interfaces with `out_file` that is cached only while its files are whole.

    Nipype looks at its own records alone: with a file gone, every later run would fail.
    """

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Return whether there are results, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and not self._has_all_files():
            return False, False
        return cached, updated

    def _has_all_files(self) -> bool:
        """Return whether all files are whole; one that is not is removed, to be made again."""
        try:
            files: list[Any] = self.result.outputs.out_file
            damaged = [Path(path) for path in files if not is_complete(path)]
        except (TraitError, TypeError, AttributeError, OSError, EOFError):
            return False
        for path in damaged:
            path.unlink(missing_ok=True)
        return not damaged
