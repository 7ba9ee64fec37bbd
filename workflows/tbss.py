"""The workflow of tract-based spatial statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import MapNode, Node, Workflow

from nipype_blm.interfaces.tbss import (
    ASSEMBLED,
    GROUP_FILES,
    PLAN_OUTPUTS,
    AssembleTBSS,
    ChooseTarget,
    MakeSkeleton,
    PlanTBSS,
    ProjectOntoSkeleton,
    RegisterPairs,
    RegisterToTarget,
)

from .nodes import FreshNode

MEM_GB = 1.0  # of a registration on cubes of 2 mm, and images on a grid of 1 mm


def init_tbss_wf(
    *,
    out_dir: str | Path,
    work_dir: str | Path | None = None,
    target: str = "template",
    parallel_nodes: int = 1,
    mem_gb: float = MEM_GB,
    name: str = "tbss_wf",
    **options: Any,
) -> Workflow:
    """Build a workflow from images of FA to their values on a common skeleton.

    Workflow Graph
        .. image:: _static/tbss_wf.svg

    Images are registered some at a time, by tasks that note what is done, so that a run that was
    killed goes on; so does one with more images.  A registration that fails is left out and named.

    Parameters
    ----------
    out_dir : path
        Folder for the results.
    work_dir : path, optional
        Folder for intermediate files; default: work in `out_dir`.
    target : str
        ``template``: every image is registered to the template; ``most_representative``: every
        image to every other one, then to the one that needs least deformation.
    parallel_nodes : int
        Nodes that run at the same time.
    mem_gb : float
        Memory that each node asks for, in GiB.
    name : str
        Name of the workflow.
    **options
        As the inputs of `PlanTBSS`: `template`, `engine`, `threshold`, `atlas`, ...

    Inputs
    ------
    fa_files
        FA, an image each.
    maps
        Images of other maps by name, such as ``{"MD": [...]}``, in the same order.

    Outputs
    -------
    mean_fa, mean_fa_mask, skeleton, skeleton_mask, distance
        As of `MakeSkeleton`.
    skeletonised, map_files, names, used, all_skeletonised, subjects_table, tract_tables, out_dir
        As of `AssembleTBSS`.
    """
    inputnode = Node(IdentityInterface(fields=["fa_files", "maps"]), name="inputnode")
    folders = {"out_dir": str(Path(out_dir).absolute())}
    if work_dir is not None:
        folders["work_dir"] = str(Path(work_dir).absolute())
    plan = FreshNode(
        PlanTBSS(target=target, parallel_nodes=parallel_nodes, **folders, **options),
        name="plan",
        mem_gb=mem_gb,
    )
    workflow = connect_tbss(plan, target, mem_gb, name)
    fields = [(each, each) for each in ("fa_files", "maps")]
    workflow.connect([(inputnode, plan, fields)])
    return workflow


def hold_tbss_plan(**outputs: Any) -> Node:
    """Return a node in place of one that plans, which has a plan that is there."""
    return Node(IdentityInterface(fields=list(PLAN_OUTPUTS), **outputs), name="plan")


def connect_tbss(plan: Node, target: str, mem_gb: float, name: str) -> Workflow:
    """Build all that comes after the node `plan`."""
    choose = FreshNode(ChooseTarget(), name="choose", mem_gb=mem_gb)
    register = MapNode(RegisterToTarget(), iterfield=["batch"], name="register", mem_gb=mem_gb)
    skeleton = FreshNode(MakeSkeleton(), name="skeleton", mem_gb=mem_gb)
    project = MapNode(ProjectOntoSkeleton(), iterfield=["batch"], name="project", mem_gb=mem_gb)
    assemble = FreshNode(AssembleTBSS(), name="assemble", mem_gb=mem_gb)
    outputnode = Node(
        IdentityInterface(fields=[*GROUP_FILES, *ASSEMBLED]),
        name="outputnode",
    )
    workflow = Workflow(name=name)
    if target != "template":
        pairs = MapNode(RegisterPairs(), iterfield=["bundle"], name="pairs", mem_gb=mem_gb)
        workflow.connect(
            [
                (plan, pairs, [("plan_file", "plan_file"), ("pair_bundles", "bundle")]),
                (pairs, choose, [("out_file", "pair_files")]),
            ]
        )
    shared: Sequence[tuple[str, str]] = [("plan_file", "plan_file")]
    workflow.connect(
        [
            (plan, choose, shared),
            (plan, register, [*shared, ("batches", "batch")]),
            (choose, register, [("target_file", "target_file")]),
            (plan, skeleton, shared),
            (register, skeleton, [("record_files", "record_files")]),
            (plan, project, [*shared, ("batches", "batch")]),
            (skeleton, project, [("skeleton_mask", "skeleton_mask")]),
            (plan, assemble, shared),
            (project, assemble, [("out_files", "projected_files")]),
            (skeleton, outputnode, [(each, each) for each in GROUP_FILES]),
            (assemble, outputnode, [(each, each) for each in ASSEMBLED]),
        ]
    )
    return workflow
