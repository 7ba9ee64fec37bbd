"""What every process of a run knows: what is asked for, the blocks, and where files are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from nipype_blm.blockmap.blocks import AXES, Grid
from nipype_blm.blockmap.channels import Channel, open_channel, reopen_channel
from nipype_blm.blockmap.functions import Function, find_function
from nipype_blm.blockmap.options import Config
from nipype_blm.blockmap.sources import find_place
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed

PLAN_FILE = "blockmap.json"
# Counted up when blocks are cut, or results put together, in another way.
_METHOD = 1


class Paths:
    """Where everything of a run is."""

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir
        self.plan = out_dir / PLAN_FILE
        self.journal = out_dir / "journal"
        self.blocks_table = out_dir / "blocks.tsv"
        self.skipped_table = out_dir / "skipped.tsv"
        self.work = out_dir / "work"
        self.outputs = out_dir / "outputs.json"
        self.whole = out_dir / ".whole"  # is there if all that is done is in the outputs
        self.own_tables = out_dir / ".tables"  # says which tables runs into this folder have made
        self.code = out_dir / ".function"

        self.parts = self.work / "parts"

    def find_parts(self, name: str) -> Path:
        """Return the folder of what blocks have of an output, where they overlap."""
        return self.parts / name

    def find_staged(self, name: str) -> Path:
        """Return the Zarr from which an output of another format is written."""
        return self.work / f"{name}.zarr"


@dataclass(frozen=True)
class Plan:
    """All that is known before a run.

    Parameters
    ----------
    config : Config
    grid : Grid
    out_dir : Path
    folder : str
        Where the function is looked for.
    stamp : str
        Of everything that results are made from, but the text of the function.
    given : Function, optional
        A function that has no name to be found by.
    arrays : mapping of str to array-like
        Channels that have no address.
    """

    config: Config
    grid: Grid
    out_dir: Path
    folder: str
    stamp: str
    notices: Sequence[str] = ()
    given: Function | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> Paths:
        """Where files are."""
        return Paths(self.out_dir)

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.grid)

    @cached_property
    def function(self) -> Function:
        """What is called on every block, also where its file is edited meanwhile."""
        return self.given or find_function(self.config.function, self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes get; they find the function themselves."""
        return {name: value for name, value in vars(self).items() if name != "function"}

    def open_channels(self) -> dict[str, Channel]:
        """Return the channels, opened in this process."""
        opened = {name: open_channel(array, name) for name, array in self.arrays.items()}
        others = {
            name: reopen_channel(source, name)
            for name, source in self.config.sources.items()
            if name not in opened
        }
        return {name: (opened | others)[name] for name in self.config.channels}

    def write(self) -> None:
        """Write the plan, for other processes and for the next run."""
        data = {
            "config": self.config.model_dump(mode="json"),
            "extent": {axis: list(pair) for axis, pair in self.grid.extent.items()},
            "size": list(self.grid.size),
            "halo": list(self.grid.halo),
            "folder": self.folder,
            "stamp": self.stamp,
        }
        write_if_changed(self.paths.plan, f"{json.dumps(data, indent=1)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan, of a function and channels that have names."""
        data = json.loads(path.read_text())
        extent = {axis: (pair[0], pair[1]) for axis, pair in data["extent"].items()}
        grid = Grid(extent, tuple(data["size"]), tuple(data["halo"]))
        config = Config.model_validate(data["config"])
        return cls(config, grid, path.parent, data["folder"], data["stamp"])


def read_stamp(path: Path) -> str | None:
    """Return the stamp of a plan; None if it is not there, or torn.

    Raises
    ------
    OSError
        If it cannot be read, which does not tell that it is another one.
    """
    try:
        return str(json.loads(path.read_text())["stamp"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


# What changes where or how fast things are done, and not what.
_IDLE = {
    *("on_error", "on_read_error", "max_skipped", "retries", "retry_pause_s", "max_mem_gb"),
    "table",
}


def make_stamp(config: Config, grid: Grid, channels: Mapping[str, Channel]) -> str:
    """Return the fingerprint of everything that results are made from."""
    asked = config.model_dump(mode="json", exclude=_IDLE)
    # `token` says where a token is, which may move.
    for each in (*asked["channels"].values(), *(asked["outputs"] or {}).values()):
        each["options"].pop("token", None)
    known = {
        name: [list(each.shape), each.dtype.str, _stamp_file(find_place(each.source))]
        for name, each in channels.items()
    }
    extent = [grid.extent[axis] for axis in AXES]
    content = [_METHOD, asked, known, extent, grid.size, grid.halo]
    return fingerprint(json.dumps(content, sort_keys=True))


def _stamp_file(path: Path | None) -> str:
    """Return size and time of a file; of a folder, such as of Zarr, only its metadata count."""
    if path is None:
        return ""
    for candidate in (path, *(path / name for name in ("zarr.json", ".zarray", "info"))):
        if candidate.is_file():
            found = candidate.stat()
            return f"{found.st_size} {found.st_mtime_ns}"
    return ""
