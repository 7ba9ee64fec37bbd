"""The nodes that all models have, and their edges."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.errors import InputError
from nipype_blm.frontends.traits import explain_name
from nipype_blm.interfaces.blm import (
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitModel,
    PlanBLM,
)
from nipype_blm.model.request import PLAN_FOLDER

from .nodes import FileMapNode, FreshNode

# Of the builders, beside the traits of the plan.
_PARAMETERS = ("out_dir", "n_procs", "max_mem_gb", "mem_gb", "copy_inputs", "keep", "name")
KEPT = ("contrasts", "all")  # nothing: Nipype needs what is in the folders of its nodes
CHECKPOINTS = "checkpoints"  # of batches that are being read


class Model(NamedTuple):
    """What differs between the workflows of models."""

    plan: type[PlanBLM]
    fit: type[FitModel]
    assemble: type[AssembleMaps]
    inputs: Sequence[str]  # of the workflow
    outputs: Sequence[str]


def find_files(workflow_folder: Path, name: str, n: int) -> list[Path]:
    """Return where the `n` elements of one of the nodes write their files."""
    elements = workflow_folder / name / "mapflow"
    return [elements / f"_{name}{i}" / f"{name}.blm" for i in range(n)]


def build_model_wf(
    model: Model,
    *,
    out_dir: str | Path | None,
    n_procs: int,
    max_mem_gb: float,
    mem_gb: float | None,
    compress: bool,
    overwrite: bool,
    allow_empty: bool,
    copy_inputs: bool,
    keep: str,
    name: str,
    options: dict[str, Any],
) -> Workflow:
    """Build the workflow of a model; `options` are further traits of its plan."""
    known = {*model.plan.input_spec().copyable_trait_names(), *_PARAMETERS}
    for option in options:
        if option not in known:
            raise InputError(explain_name(option, known))
    if keep not in KEPT:
        raise InputError(f"keep={keep!r} was given; choose one of {', '.join(KEPT)}.")
    assemble_maps = model.assemble(compress=compress, overwrite=overwrite, allow_empty=allow_empty)
    recorded = {"keep": keep}
    if out_dir is not None:
        assemble_maps.inputs.out_dir = recorded["out_dir"] = str(Path(out_dir).absolute())
    options = options | {"recorded_fields": recorded | options.get("recorded_fields", {})}
    inputnode = Node(IdentityInterface(fields=list(model.inputs)), name="inputnode")
    outputnode = Node(IdentityInterface(fields=list(model.outputs)), name="outputnode")
    resources: dict[str, Any] = {"n_procs": n_procs, "mem_gb": mem_gb or max_mem_gb}
    # Beside the node's own folder, which is emptied whenever the node runs.
    plan = FreshNode(
        model.plan(
            max_mem_gb=max_mem_gb,
            compress=compress,
            overwrite=overwrite,
            allow_empty=allow_empty,
            plan_dir=f"../{PLAN_FOLDER}",
            **options,
        ),
        name="plan",
        mem_gb=0.5,
    )
    products = FileMapNode(
        # Beside the folders of all batches, for the same reason.
        ComputeProducts(n_procs=n_procs, checkpoint_dir=f"../../{CHECKPOINTS}"),
        iterfield=["batch_file"],
        name="products",
        **resources,
    )
    estimates = FileMapNode(
        model.fit(n_procs=n_procs), iterfield=["block"], name="estimates", **resources
    )
    contrasts = FileMapNode(
        ComputeContrasts(n_procs=n_procs),
        iterfield=["block", "estimates_file"],
        name="contrasts",
        **resources,
    )
    assemble = FreshNode(assemble_maps, name="assemble", mem_gb=0.5)

    workflow = Workflow(name=name)
    shared = _same("model_file", "fingerprint")
    workflow.connect(
        [
            (inputnode, plan, _same(*model.inputs)),
            (plan, products, [*_same("model_file", "max_threads"), ("batch_files", "batch_file")]),
            (plan, estimates, [*shared, *_same("batch_files"), ("blocks", "block")]),
            (products, estimates, [("out_file", "products_files")]),
            (plan, contrasts, [*shared, *_same("contrasts_file"), ("blocks", "block")]),
            (estimates, contrasts, [("out_file", "estimates_file")]),
            (plan, assemble, [*shared, *_same("model_id", "contrasts_file", "batch_files")]),
            (estimates, assemble, [("out_file", "estimates_files")]),
            (contrasts, assemble, [("out_file", "statistics_files")]),
            (assemble, outputnode, _same(*model.outputs)),
        ]
    )
    if copy_inputs:
        workflow.connect(plan, "inputs_file", assemble, "inputs_file")
    if keep == "contrasts":
        workflow.connect(products, "out_file", assemble, "products_files")
    return workflow


def _same(*names: str) -> list[tuple[str, str]]:
    """Return connections of outputs to inputs of the same name."""
    return [(name, name) for name in names]
