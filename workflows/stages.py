"""The nodes that all models have, and their edges."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.blm import (
    PLAN_OUTPUTS,
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitModel,
    PlanBLM,
)
from nipype_blm.model.request import CHECKPOINTS, PLAN_FOLDER, PRODUCTS_FOLDER, TILES_FOLDER

from .nodes import FileMapNode, FreshNode
from .parameters import Parameters

Edge = tuple[Node, Node, list[tuple[str, str]]]
ASSEMBLE = "assemble"  # the node that writes the maps


class Model(NamedTuple):
    """What differs between the workflows of models."""

    plan: type[PlanBLM]
    assemble: type[AssembleMaps]
    inputs: Sequence[str]  # of the workflow
    outputs: Sequence[str]


def find_files(workflow_folder: Path, name: str, n: int) -> list[Path]:
    """Return where the `n` elements of one of the nodes write their files."""
    elements = workflow_folder / name / "mapflow"
    return [elements / f"_{name}{i}" / f"{name}.blm" for i in range(n)]


def build_model_wf(model: Model, parameters: Parameters) -> Workflow:
    """Build the workflow of a model, whose first node plans."""
    given = {name: value for name, value in asdict(parameters).items() if value is not None}
    known = model.plan.input_spec().copyable_trait_names()
    traits = {name: value for name, value in given.items() if name in known}
    # Where the maps go by default, beside its own folder, too.
    traits |= {"out_dir": f"../{ASSEMBLE}/{model.assemble.folder}"} | _give_out_dir(parameters)
    # Beside the node's own folder, which is emptied whenever the node runs.
    plan = FreshNode(model.plan(plan_dir=f"../{PLAN_FOLDER}", **traits), name="plan", mem_gb=0.5)
    inputnode = Node(IdentityInterface(fields=list(model.inputs)), name="inputnode")
    return connect_stages(model, plan, parameters, [(inputnode, plan, _same(*model.inputs))])


def hold_plan(**outputs: Any) -> Node:
    """Return a node in place of one that plans, which has a plan that is there."""
    return Node(IdentityInterface(fields=list(PLAN_OUTPUTS), **outputs), name="plan")


def connect_stages(
    model: Model, plan: Node, parameters: Parameters, before: Sequence[Edge] = ()
) -> Workflow:
    """Build all that comes after the node `plan`; `before` it are other edges, or none."""
    # A node that plans has not run yet: what others will need is not known but for their budget.
    n_procs, mem_gb = parameters.n_procs, parameters.mem_gb or parameters.max_mem_gb
    resources: dict[str, Any] = {"n_procs": n_procs, "mem_gb": mem_gb}
    products = FileMapNode(
        # Beside the folders of all batches, which are emptied, too.
        ComputeProducts(
            n_procs=n_procs,
            checkpoint_dir=f"../../{CHECKPOINTS}",
            tiles_dir=f"../../../{TILES_FOLDER}",
            keep_tiles=parameters.keep == "tiles",
        ),
        iterfield=["batch_file"],
        name=PRODUCTS_FOLDER,
        **resources,
    )
    estimates = FileMapNode(
        FitModel(n_procs=n_procs), iterfield=["block"], name="estimates", **resources
    )
    contrasts = FileMapNode(
        ComputeContrasts(n_procs=n_procs),
        iterfield=["block", "estimates_file"],
        name="contrasts",
        **resources,
    )
    assemble_maps = model.assemble(
        compress=parameters.compress,
        overwrite=parameters.overwrite,
        allow_empty=parameters.allow_empty,
        **_give_out_dir(parameters),
    )
    assemble = FreshNode(assemble_maps, name=ASSEMBLE, mem_gb=0.5)
    outputnode = Node(IdentityInterface(fields=list(model.outputs)), name="outputnode")

    workflow = Workflow(name=parameters.name)
    shared = _same("model_file", "fingerprint")
    workflow.connect(
        [
            *before,
            (plan, products, [*_same("model_file", "max_threads"), ("batch_files", "batch_file")]),
            (plan, estimates, [*shared, *_same("batch_files"), ("blocks", "block")]),
            (products, estimates, [("out_file", "products_files")]),
            (plan, contrasts, [*shared, *_same("contrasts_file"), ("blocks", "block")]),
            (estimates, contrasts, [("out_file", "estimates_file")]),
            (plan, assemble, [*shared, *_same("model_id", "contrasts_file", "batch_files")]),
            (plan, assemble, _same("study_file")),
            (estimates, assemble, [("out_file", "estimates_files")]),
            (contrasts, assemble, [("out_file", "statistics_files")]),
            (assemble, outputnode, _same(*model.outputs)),
        ]
    )
    if parameters.copy_inputs:
        workflow.connect(plan, "inputs_file", assemble, "inputs_file")
    if parameters.keep == "contrasts":
        workflow.connect(products, "out_file", assemble, "products_files")
    if parameters.keep == "tiles":
        workflow.connect(products, "tiles_file", assemble, "tiles_files")
    return workflow


def _give_out_dir(parameters: Parameters) -> dict[str, str]:
    """Return the trait of a folder for the maps, if there is one."""
    given = parameters.out_dir
    return {} if given is None else {"out_dir": str(Path(given).absolute())}


def _same(*names: str) -> list[tuple[str, str]]:
    """Return connections of outputs to inputs of the same name."""
    return [(name, name) for name in names]
