"""Nodes whose cache can be trusted, whichever plugin runs them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import MapNode, Node
from nipype.utils.filemanip import loadpkl, savepkl

from nipype_blm.io.arrayfile import is_empty, is_whole
from nipype_blm.io.files import describe_state


class FreshNode(Node):
    """A Node that leaves no result of an earlier run behind when it has to run.

    Nipype's SLURM and SGE plugins take any result for that of the job: also an old one, of a
    node whose job never started.  Nothing comes after the last node that could tell.
    """

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Return whether there are results, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and _load_outputs(self) is None:
            return False, False
        must_run = self.overwrite or (self.overwrite is None and self.interface.always_run)
        if must_run or not (cached and updated):
            _find_record(self).unlink(missing_ok=True)
        return cached, updated


class OwnFileNode(FreshNode):
    """A FreshNode of an interface with `out_file` and its `state`, which lies outside of the node.

    It is cached only while that file is the one that it wrote.
    """

    @property
    def needed_outputs(self) -> list[str]:
        """The outputs that are kept, of which Nipype drops those that nobody reads."""
        names: list[str] = super().needed_outputs
        return names

    @needed_outputs.setter
    def needed_outputs(self, names: Iterable[str] | None) -> None:
        FreshNode.needed_outputs.fset(self, {*(names or []), "state"})

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Return whether there are results, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated:
            outputs = _load_outputs(self)
            if outputs is None or outputs.state != describe_state(Path(outputs.out_file)):
                _find_record(self).unlink(missing_ok=True)
                return False, False
        return cached, updated


class DiscreetMapNode(MapNode):
    """A MapNode that leaves no environment, in which a token may be, in its record if it fails."""

    def _run_interface(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super()._run_interface(*arguments, **options)
        except Exception:
            record = _find_record(self)
            if record.is_file():
                result = loadpkl(record)
                result.runtime.environ = {}
                savepkl(str(record), result)
            raise


class FileMapNode(MapNode):
    """A MapNode of interfaces with `out_file` that is cached only while its files are whole.

    Nipype looks at its own records alone: with a damaged file, every later run would fail.
    """

    _is_checked = False  # before plugins ran the elements; then they are only collected

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Return whether there are results, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and not self._has_all_files():
            return False, False
        return cached, updated

    def get_subnodes(self) -> list[Node]:
        """Return one node for each element, as plugins ask for that run them as jobs."""
        nodes: list[Node] = super().get_subnodes()
        self._is_checked = True
        return nodes

    def _make_nodes(self, cwd: str | None = None) -> Iterator[tuple[int, Node]]:
        """Return one node for each element, wherever they run."""
        # What is to be computed from the elements needs all of them.
        may_be_empty = self._is_checked or all(self.is_cached())
        for number, node in super()._make_nodes(cwd):
            # A node that is not cached replaces its file, whatever that is like.
            if not self._is_checked and all(node.is_cached()):
                _remove_damaged(Path(node.output_dir()).glob("*.blm"), may_be_empty)
                if not _has_tiles(node, _load_outputs(node)):
                    _find_record(node).unlink(missing_ok=True)
            yield number, node

    def _has_all_files(self) -> bool:
        """Return whether all files are whole; one that is not is removed, to be made again."""
        outputs = _load_outputs(self)
        files: list[Any] = [] if outputs is None else outputs.out_file
        is_whole = bool(files) and not _remove_damaged([Path(path) for path in files])
        return is_whole and _has_tiles(self, outputs)


def _find_record(node: Node) -> Path:
    """Return the file in which Nipype keeps the outputs of a node."""
    return Path(node.output_dir(), f"result_{node.name}.pklz")


def _has_tiles(node: Node, outputs: Any) -> bool:
    """Return whether tiles are whole that a node is to keep; one that is not is removed."""
    if outputs is None or getattr(node.inputs, "keep_tiles", False) is not True:
        return True
    found = outputs.tiles_file
    if not isdefined(found):  # it ran without
        return False
    files = found if isinstance(found, list) else [found]
    return all(map(isdefined, files)) and not _remove_damaged([Path(path) for path in files])


def _load_outputs(node: Node) -> Any:
    """Return the outputs of a cached node; None, without a record any more, if it has to run."""
    try:
        return node.result.outputs
    except Exception:  # what is damaged, or names files that are gone, can raise anything
        _find_record(node).unlink(missing_ok=True)
        return None


def _remove_damaged(paths: Iterable[Path], may_be_empty: bool = True) -> list[Path]:
    """Remove files that are there and not whole; return those, and what is not there."""
    damaged = [
        path for path in paths if not is_whole(path) or (is_empty(path) and not may_be_empty)
    ]
    for path in damaged:
        if path.exists():  # else another machine may have it, and this one see it later
            path.unlink(missing_ok=True)
    return damaged
