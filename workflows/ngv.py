"""The workflow of neuro-glia-vasculature circuits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import MapNode, Node, Workflow

from nipype_blm.interfaces.circuit import (
    PREPARED,
    CheckIntegrity,
    DetectTouches,
    GatherMorphologies,
    GatherTouches,
    PlanSynthesis,
    PlanTouches,
    PrepareCircuit,
    RunTouchDetector,
    SynthesizeAstrocytes,
)
from nipype_blm.interfaces.ngv import (
    AssignEmodels,
    BuildMesh,
    BuildMicrodomains,
    ConnectGlialglial,
    ConnectGliovascular,
    ConnectNeuroglial,
    FinalizeAstrocytes,
    FinalizeGliovascular,
    FinalizeNeuroglial,
    GrowEndfeet,
    NGVInterface,
    PlaceCells,
    PrepareMesh,
    RefineMesh,
    VasculatureToSonata,
    WriteCircuitConfig,
)
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.prepare import RECIPE_FILE
from nipype_blm.ngv.recipe.reading import DEFAULT, Recipe, read_recipe
from nipype_blm.ngv.recipe.resources import Resources, read_resources
from nipype_blm.ngv.stages import STAGES

from .nodes import FreshNode, OwnFileNode

# Where an input of a stage comes from: the name of a node and its output.
Sources = Mapping[str, tuple[str, str]]


class _Command(NamedTuple):
    """A stage that is one node: its interface, and where its inputs are from."""

    interface: type[NGVInterface]
    sources: Sources


def _out(stage: str) -> tuple[str, str]:
    return stage, "out_file"


def _prepared(name: str) -> tuple[str, str]:
    return "prepare", name


_CELLS, _VESSELS = _out("finalize_astrocytes"), _out("sonata_vasculature")
_DOMAINS, _ENDFEET = _out("microdomains"), _out("endfeet_area")
_MORPHOLOGIES = {
    "morphologies": ("gather_morphologies", "morphologies"),
    "done_file": ("gather_morphologies", "done_file"),
}
_COMMANDS: Mapping[str, _Command] = {
    "sonata_vasculature": _Command(VasculatureToSonata, {"in_file": _prepared("vasculature")}),
    "cell_placement": _Command(PlaceCells, {"atlas": _prepared("atlas"), "vasculature": _VESSELS}),
    "assign_emodels": _Command(
        AssignEmodels,
        {"in_file": _out("cell_placement"), "hoc_template": _prepared("hoc_template")},
    ),
    "finalize_astrocytes": _Command(
        FinalizeAstrocytes,
        {"somata": _out("cell_placement"), "emodels": _out("assign_emodels")},
    ),
    "microdomains": _Command(
        BuildMicrodomains, {"atlas": _prepared("atlas"), "astrocytes": _CELLS}
    ),
    "gliovascular_connectivity": _Command(
        ConnectGliovascular,
        {"astrocytes": _CELLS, "microdomains": _DOMAINS, "vasculature": _VESSELS},
    ),
    "neuroglial_connectivity": _Command(
        ConnectNeuroglial,
        {
            "astrocytes": _CELLS,
            "microdomains": _DOMAINS,
            "neurons": _prepared("neurons"),
            "neuronal_connectivity": _prepared("neuronal_connectivity"),
            "synapse_index": _prepared("synapse_index"),
        },
    ),
    "endfeet_area": _Command(
        GrowEndfeet,
        {
            "vasculature_mesh": _prepared("vasculature_mesh"),
            "gliovascular_connectivity": _out("gliovascular_connectivity"),
        },
    ),
    "finalize_gliovascular_connectivity": _Command(
        FinalizeGliovascular,
        {
            "in_file": _out("gliovascular_connectivity"),
            "astrocytes": _CELLS,
            "endfeet_meshes": _ENDFEET,
            "vasculature": _VESSELS,
            **_MORPHOLOGIES,
        },
    ),
    "finalize_neuroglial_connectivity": _Command(
        FinalizeNeuroglial,
        {
            "in_file": _out("neuroglial_connectivity"),
            "astrocytes": _CELLS,
            "microdomains": _DOMAINS,
            "neuronal_connectivity": _prepared("neuronal_connectivity"),
            **_MORPHOLOGIES,
        },
    ),
    "glialglial_connectivity": _Command(
        ConnectGlialglial,
        {
            "astrocytes": _CELLS,
            "touches": ("gather_touches", "touches"),
            "done_file": ("gather_touches", "done_file"),
        },
    ),
    "prepare_tetrahedral": _Command(
        PrepareMesh,
        {"astrocytes": _CELLS, "neurons": _prepared("neurons"), "vasculature": _VESSELS},
    ),
    "build_tetrahedral": _Command(BuildMesh, {"in_file": _out("prepare_tetrahedral")}),
    "refine_tetrahedral": _Command(
        RefineMesh,
        {"in_file": _out("build_tetrahedral"), "steps": _prepared("refinement_steps")},
    ),
    "ngv_config": _Command(
        WriteCircuitConfig,
        {"bioname": _prepared("bioname"), "manifest": _prepared("manifest")},
    ),
}
_PLAN_SYNTHESIS: Sources = {
    "config": _prepared("synthesis_config"),
    "seed": _prepared("synthesis_seed"),
    "tns_distributions": _prepared("tns_distributions"),
    "tns_parameters": _prepared("tns_parameters"),
    "tns_context": _prepared("tns_context"),
    "er_data": _prepared("er_data"),
    "neuronal_connectivity": _prepared("neuronal_connectivity"),
    "astrocytes": _CELLS,
    "microdomains": _DOMAINS,
    "gliovascular_connectivity": _out("gliovascular_connectivity"),
    "neuroglial_connectivity": _out("neuroglial_connectivity"),
    "endfeet_meshes": _ENDFEET,
}
OUTPUTS: Sources = {
    **{STAGES[stage].product: _out(stage) for stage in _COMMANDS},
    "morphologies": ("gather_morphologies", "morphologies"),
    "touches": ("gather_touches", "touches"),
    "integrity": _out("integrity"),
}


def init_ngv_wf(
    *,
    config: str | Path,
    out_dir: str | Path,
    until: Sequence[str] | None = None,
    seed: int | None = None,
    ngv_python: str | Path | None = None,
    any_versions: bool = False,
    parallel_nodes: int = 1,
    name: str = "ngv_wf",
) -> Workflow:
    """Build a workflow from an atlas, vessels and neurons to a neuro-glia-vasculature circuit.

    Workflow Graph
        .. image:: _static/ngv_wf.svg

    Each stage is a command of ArchNGV, which runs in an environment of its own; astrocytes are
    grown, and their touches found, some at a time.  A run that was killed goes on: stages that are
    done are not done again, nor are cells that are written.

    Parameters
    ----------
    config : path
        ArchNGV's bioname folder, with MANIFEST.yaml; or a YAML file, see `read_recipe`.
    out_dir : path
        Folder of the circuit; all is computed in its ``build``.
    until : sequence of str, optional
        Stages to be reached; default: all.
    seed : int, optional
        In place of that of the manifest.
    ngv_python : path, optional
        Python of the environment of ArchNGV; default: that of ``nipype-blm ngv install``.
    any_versions : bool
        Take that environment also with other versions than those that work together.
    parallel_nodes : int
        Nodes that run at the same time.
    name : str
        Name of the workflow.

    Outputs
    -------
    vasculature, astrocytes, microdomains, endfeet_meshes, gliovascular, neuroglial, glialglial, ...
        The parts of the circuit, as `Layout` names them; those that `until` leaves out are not set.
    morphologies
        Folder with a morphology of each astrocyte.
    touches
        Folder of the touches between astrocytes.
    config
        SONATA configuration of the circuit.
    """
    recipe = read_recipe(config, until, seed)
    where: dict[str, Any] = {"any_versions": any_versions}
    given = recipe.ngv_python if ngv_python is None else Path(ngv_python).expanduser().absolute()
    if given is not None:
        where["ngv_python"] = str(given / "bin" / "python" if given.is_dir() else given)
    asked = {"until": None if until is None else list(until), "seed": seed}
    layout = Layout(Path(out_dir).expanduser().absolute())
    prepare = FreshNode(
        PrepareCircuit(
            config=str(recipe.source),
            out_dir=str(layout.folder),
            **where,
            **{key: value for key, value in asked.items() if value is not None},
        ),
        name="prepare",
    )
    _equip(prepare, _read_default(recipe))
    return connect_circuit(prepare, recipe, layout, where, name, parallel_nodes)


def _read_default(recipe: Recipe) -> Resources:
    """Return what a node asks for that has little to do."""
    return read_resources(recipe.cluster.get(DEFAULT, {}), DEFAULT)._replace(n_procs=1)


def _equip(node: Node, resources: Resources) -> None:
    """Have a node ask for resources."""
    node._n_procs = resources.n_procs
    if resources.mem_gb is not None:
        node._mem_gb = resources.mem_gb
    if resources.plugin_args:
        node.plugin_args = resources.plugin_args


def hold_prepared(**outputs: Any) -> Node:
    """Return a node in place of one that prepares, which has outputs that are there."""
    return Node(IdentityInterface(fields=list(PREPARED), **outputs), name="prepare")


def connect_circuit(
    prepare: Node,
    recipe: Recipe,
    layout: Layout,
    where: Mapping[str, Any],
    name: str,
    parallel_nodes: int = 1,
) -> Workflow:
    """Build all that comes after the node `prepare`.

    Parameters
    ----------
    where : mapping
        `ngv_python` and `any_versions` of all nodes.
    """
    builder = _Builder(recipe, layout, where, parallel_nodes)
    builder.nodes["prepare"] = prepare
    for stage in recipe.stages:
        builder.add(stage)
    workflow = Workflow(name=name)
    workflow.add_nodes([prepare])
    outputnode = Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    known = {field: source for field, source in OUTPUTS.items() if source[0] in builder.nodes}
    for node, sources in [*builder.connections, (outputnode, known)]:
        for field, (origin, output) in sources.items():
            workflow.connect(builder.nodes[origin], output, node, field)
    return workflow


class _Builder:
    """Makes the nodes of stages, and notes what their inputs are."""

    def __init__(
        self, recipe: Recipe, layout: Layout, where: Mapping[str, Any], parallel_nodes: int
    ) -> None:
        self._recipe, self._layout, self._where = recipe, layout, where
        self._parallel_nodes = parallel_nodes
        self.nodes: dict[str, Node] = {}
        self.connections: list[tuple[Node, Sources]] = []

    def add(self, stage: str) -> None:
        """Add the nodes of a stage; those that it needs are there."""
        special = {
            "synthesis": self._add_synthesis,
            "glial_gap_junctions": self._add_touches,
            "integrity": self._add_integrity,
        }
        if stage in special:
            special[stage](read_resources(self._recipe.cluster.get(stage, {}), stage))
            return
        command = _COMMANDS[stage]
        sources = dict(command.sources)
        traits = command.interface.input_spec().copyable_trait_names()
        sources["config" if "config" in traits else "recipe_file"] = _prepared(f"{stage}_config")
        if "seed" in traits:
            sources["seed"] = _prepared(f"{stage}_seed")
        resources = read_resources(self._recipe.cluster.get(stage, {}), stage)
        interface = command.interface(out_file=str(self._layout.find_product(stage)), **self._where)
        if "n_procs" in traits:
            interface.inputs.n_procs = resources.n_procs
        self._put(stage, OwnFileNode(interface, name=stage), sources, resources)

    def _put(self, name: str, node: Node, sources: Sources, resources: Resources) -> None:
        _equip(node, resources)
        self.nodes[name] = node
        self.connections.append((node, sources))

    def _add_synthesis(self, resources: Resources) -> None:
        plan = PlanSynthesis(
            out_dir=str(self._layout.morphologies),
            parallel_nodes=self._parallel_nodes,
            **self._where,
        )
        few, little = resources._replace(n_procs=1), _read_default(self._recipe)
        self._put("plan_synthesis", FreshNode(plan, name="plan_synthesis"), _PLAN_SYNTHESIS, little)
        grow = SynthesizeAstrocytes(**self._where)
        plan_file = ("plan_synthesis", "plan_file")
        self._put(
            "synthesis",
            MapNode(grow, iterfield=["bundle"], name="synthesis"),
            {"plan_file": plan_file, "bundle": ("plan_synthesis", "bundles")},
            few,
        )
        self._put(
            "gather_morphologies",
            FreshNode(GatherMorphologies(), name="gather_morphologies"),
            {"plan_file": plan_file, "failures": ("synthesis", "failures")},
            little,
        )

    def _add_touches(self, resources: Resources) -> None:
        layout, options = self._layout, self._recipe.touches
        cells = {"astrocytes": _CELLS, **_MORPHOLOGIES}
        few, little = resources._replace(n_procs=1), _read_default(self._recipe)
        if options.command is not None:
            other = RunTouchDetector(command=options.command, out_dir=str(layout.touches))
            recipe = layout.recipe / RECIPE_FILE
            if recipe.is_file():
                other.inputs.recipe = str(recipe)
            self._put("gather_touches", FreshNode(other, name="gather_touches"), cells, resources)
            return
        plan = PlanTouches(parallel_nodes=self._parallel_nodes)
        self._put("plan_touches", FreshNode(plan, name="plan_touches"), cells, little)
        self._put(
            "glial_gap_junctions",
            MapNode(
                DetectTouches(**options.model_dump(exclude={"command"})),
                iterfield=["sources"],
                name="glial_gap_junctions",
            ),
            {
                "sources": ("plan_touches", "sources"),
                "boxes_file": ("plan_touches", "boxes_file"),
                **cells,
            },
            few,
        )
        self._put(
            "gather_touches",
            FreshNode(GatherTouches(out_dir=str(layout.touches)), name="gather_touches"),
            {"touch_files": ("glial_gap_junctions", "out_file")},
            little,
        )

    def _add_integrity(self, resources: Resources) -> None:
        interface = CheckIntegrity(out_file=str(self._layout.integrity), **self._where)
        node = OwnFileNode(interface, name="integrity")
        parts = ("astrocytes", "vasculature", "gliovascular", "neuroglial", "glialglial")
        sources = {
            "config": _out("ngv_config"),
            "recipe_file": _prepared("integrity_config"),
            "done_file": _MORPHOLOGIES["done_file"],
            **{part: OUTPUTS[part] for part in (*parts, "microdomains", "endfeet_meshes")},
        }
        self._put("integrity", node, sources, resources)
