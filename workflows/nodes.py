"""Nodes whose cache can be trusted."""

from pathlib import Path
from typing import Any

from nipype.pipeline.engine import MapNode
from traits.trait_errors import TraitError


class FileMapNode(MapNode):
    """A MapNode of interfaces with `out_file` that is cached only while its files exist.

    Nipype looks at its own records alone: with a file gone, every later run would fail.
    """

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Return whether there are results, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and not self._has_all_files():
            return False, False
        return cached, updated

    def _has_all_files(self) -> bool:
        try:
            files: list[Any] = self.result.outputs.out_file
            return all(Path(path).is_file() for path in files)
        except (TraitError, TypeError, AttributeError, OSError, EOFError):
            return False
