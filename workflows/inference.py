"""The workflow of corrected inference on the results of a model."""

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.inference import (
    OUTPUTS,
    PLAN_OUTPUTS,
    ComputeNulls,
    ComputeScores,
    ComputeTiles,
    CorrectMaps,
    PlanInference,
)
from nipype_blm.model.request import DEFAULT_MAX_BYTES
from nipype_blm.units import GIB

from .nodes import FileMapNode, FreshNode


def init_inference_wf(
    *,
    n_procs: int = 1,
    max_mem_gb: float = DEFAULT_MAX_BYTES / GIB,
    parallel_nodes: int = 1,
    name: str = "inference_wf",
    **options: Any,
) -> Workflow:
    """Build a workflow that corrects p for the number of voxels, by resampling.

    Workflow Graph
        .. image:: _static/inference_wf.svg

    Images are read once, in batches, unless the model has kept their values; null models are
    fitted in blocks of voxels; resamplings are done some hundreds at a time, and go on from those
    that are there.

    Parameters
    ----------
    n_procs : int
        Threads of each node that computes.
    max_mem_gb : float
        Memory that each such node may use, in GiB.
    parallel_nodes : int
        Nodes that run at the same time.
    name : str
        Name of the workflow.
    **options
        As the inputs of `ResampleMaps`: `resampling`, `n`, `summaries`, ...

    Inputs
    ------
    results_dir
        Folder of results, such as `out_dir` of a workflow that fits a model.

    Outputs
    -------
    out_dir, zscore_maps, corrected_maps, q_maps, cluster_tables, null_files, summaries, n
        As of `ResampleMaps`.
    """
    inputnode = Node(IdentityInterface(fields=["results_dir"]), name="inputnode")
    # Beside the node's own folder, which is emptied whenever the node runs.
    plan = FreshNode(
        PlanInference(
            plan_dir="../plan_files",
            max_mem_gb=max_mem_gb,
            parallel_nodes=parallel_nodes,
            **options,
        ),
        name="plan",
        mem_gb=0.5,
    )
    workflow = connect_inference(plan, n_procs, max_mem_gb, name)
    workflow.connect(
        [
            (inputnode, plan, [("results_dir", "results_dir")]),
            (inputnode, workflow.get_node("correct"), [("results_dir", "results_dir")]),
        ]
    )
    return workflow


def hold_inference_plan(**outputs: Any) -> Node:
    """Return a node in place of one that plans, which has a plan that is there."""
    return Node(IdentityInterface(fields=list(PLAN_OUTPUTS), **outputs), name="plan")


def connect_inference(plan: Node, n_procs: int, mem_gb: float, name: str) -> Workflow:
    """Build all that comes after the node `plan`."""
    resources: dict[str, Any] = {"n_procs": n_procs, "mem_gb": mem_gb}
    tiles = FileMapNode(
        ComputeTiles(n_procs=n_procs), iterfield=["batch_file"], name="tiles", **resources
    )
    scores = FileMapNode(
        ComputeScores(n_procs=n_procs), iterfield=["block"], name="scores", **resources
    )
    nulls = FileMapNode(
        ComputeNulls(n_procs=n_procs), iterfield=["start", "stop"], name="nulls", **resources
    )
    correct = FreshNode(CorrectMaps(n_procs=n_procs), name="correct", **resources)
    outputnode = Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    workflow = Workflow(name=name)
    shared = [(each, each) for each in ("model_file", "resampled_file")]
    same = [(each, each) for each in ("starts", "stops", "n", "options")]
    workflow.connect(
        [
            (plan, tiles, [("model_file", "model_file"), ("batch_files", "batch_file")]),
            (plan, tiles, [("kept", "kept")]),
            (plan, scores, [*shared, ("batch_files", "batch_files"), ("blocks", "block")]),
            (tiles, scores, [("out_file", "tile_files")]),
            (plan, nulls, [*shared, ("starts", "start"), ("stops", "stop")]),
            (scores, nulls, [("out_file", "scores_files")]),
            (plan, correct, [*shared, *same, ("batch_files", "batch_files")]),
            (tiles, correct, [("out_file", "tile_files")]),
            (scores, correct, [("out_file", "scores_files")]),
            (nulls, correct, [("out_file", "nulls_files")]),
            (correct, outputnode, [(each, each) for each in OUTPUTS]),
        ]
    )
    return workflow
