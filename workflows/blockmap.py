"""The workflow of a function over blocks of volumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.blockmap import (
    AssembleBlocks,
    BlockMapOutputSpec,
    MapBlocks,
    PlanBlocks,
)

from .nodes import DiscreetMapNode, FreshNode

MEM_GB = 2.0  # of a node: the data of a block, and what the function makes of it


def init_blockmap_wf(
    *,
    out_dir: str | Path,
    channels: Mapping[str, Any] | None = None,
    parallel_nodes: int = 1,
    mem_gb: float = MEM_GB,
    n_procs: int = 1,
    name: str = "blockmap_wf",
    **options: Any,
) -> Workflow:
    """Build a workflow that runs a function on every block of volumes, by any plugin.

    Workflow Graph
        .. image:: _static/blockmap_wf.svg

    Each node takes a range of blocks, and notes every one as soon as it is done, so that a run
    that was killed goes on.  What the function returns is put together, or tabulated.

    Parameters
    ----------
    out_dir : path
        Folder for results, tables and journal.
    channels : mapping, optional
        Volumes by name: paths, addresses, or mappings of a path and how it is read; may be given
        to the workflow later.
    parallel_nodes : int
        Nodes that run at the same time.
    mem_gb : float
        Memory that each node asks for, in GiB.
    n_procs : int
        Threads that put overlapping blocks together.
    name : str
        Name of the workflow.
    **options
        As the inputs of `PlanBlocks`: `function`, `block_size`, `config_file`, ...

    Inputs
    ------
    channels
        As the parameter.

    Outputs
    -------
    out_dir, outputs, table, blocks_table, skipped_table, keys, skipped
        As of `AssembleBlocks`.
    """
    inputnode = Node(IdentityInterface(fields=["channels"]), name="inputnode")
    if channels is not None:
        inputnode.inputs.channels = dict(channels)
    plan = FreshNode(
        PlanBlocks(
            out_dir=str(Path(out_dir).absolute()),
            # Relative paths are those of who builds the workflow, not of the node.
            base_dir=str(Path.cwd()),
            parallel_nodes=parallel_nodes,
            **options,
        ),
        name="plan",
        mem_gb=mem_gb,
    )
    blocks = DiscreetMapNode(
        MapBlocks(), iterfield=["bundle", "journal"], name="blocks", mem_gb=mem_gb
    )
    assemble = FreshNode(
        AssembleBlocks(n_procs=n_procs), name="assemble", mem_gb=mem_gb, n_procs=n_procs
    )
    results = list(BlockMapOutputSpec().copyable_trait_names())
    outputnode = Node(IdentityInterface(fields=results), name="outputnode")
    workflow = Workflow(name=name)
    workflow.connect(
        [
            (inputnode, plan, [("channels", "channels")]),
            (
                plan,
                blocks,
                [("plan_file", "plan_file"), ("bundles", "bundle"), ("journals", "journal")],
            ),
            (plan, assemble, [("plan_file", "plan_file")]),
            (blocks, assemble, [("journal_file", "journal_files")]),
            (assemble, outputnode, [(each, each) for each in results]),
        ]
    )
    return workflow
