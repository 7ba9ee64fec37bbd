"""What the plugin knows of Nipype's nodes: how one runs on a worker, and which files it has."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask.config
from nipype import config, logging
from nipype.pipeline.engine import MapNode
from traits.api import TraitError

from nipype_blm.machine import THREAD_VARIABLES
from nipype_blm.tasks.disks import find_paths, list_names
from nipype_blm.tasks.worker import running


def run_node(node: Any, updatehash: bool) -> None:
    """Run a node on a worker.

    Results stay in the node's folder, where the nodes after it find them; the driver does not
    ask for what is returned here, which would take longer than Nipype takes to run a node.
    """
    with _prepared_for(node):
        node.run(updatehash=updatehash)


@contextmanager
def _prepared_for(node: Any) -> Iterator[None]:
    """Apply a node's configuration of Nipype, and tell programs how many threads they have."""
    config.update_config(node.config)
    logging.update_logging(config)
    n_procs = node.n_procs or 1
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(n_procs)))
    try:
        # What a node computes with Dask stays in it; the workers of the pool could wait for ever.
        with dask.config.set(scheduler="threads", num_workers=n_procs):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def has_record(node: Any) -> bool:
    """Return whether this machine sees that a node has ended."""
    names = list_names(node.output_dir())
    # The last file that Nipype writes is named after the inputs.
    is_hash = re.compile(r"_0x[0-9a-f]+\.json").fullmatch
    return f"result_{node.name}.pklz" in names and any(map(is_hash, names))


def has_all_files(node: Any) -> bool:
    """Return whether this machine sees what a node that has ended wrote."""
    if not has_record(node):
        return False
    try:
        # Nipype changes the working directory while it reads a result, but workers may be here.
        with running:
            _ = node.result  # whose files have to exist
    except (FileNotFoundError, TraitError):
        return False
    except Exception:  # what is wrong with it Nipype says, if it is read at all
        return True
    return True


def find_input_files(node: Any, connected: Iterable[str]) -> list[str]:
    """Return the files of earlier nodes that a node finds here.

    Parameters
    ----------
    node : Node
    connected : iterable of str
        Names of the inputs that come from other nodes.
    """
    with suppress(Exception), running:  # the node itself says what is wrong
        node._get_inputs()
    paths = set(find_paths([getattr(node.inputs, name, None) for name in connected]))
    if isinstance(node, MapNode):  # it collects what its elements wrote
        paths |= {str(path) for path in Path(node.output_dir(), "mapflow").glob("*/*")}
    return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110
