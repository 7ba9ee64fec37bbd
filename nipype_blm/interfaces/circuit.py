"""Neuro-glia-vasculature circuits: what comes around the commands of ArchNGV."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import Directory, File, TraitedSpec, isdefined, traits

from nipype_blm.interfaces.base import InputSpec, warn_of
from nipype_blm.interfaces.ngv import NGVInputSpec, NGVInterface, OutFileSpec, find_python
from nipype_blm.ngv.recipe.manifest import FOLDERS, PLACES
from nipype_blm.ngv.stages import STAGES, TNS_FILES

if TYPE_CHECKING:
    from nipype_blm.ngv.circuit.morphologies import Cells
    from nipype_blm.ngv.recipe.prepare import Prepared


class _PrepareCircuitInputSpec(NGVInputSpec):
    config = traits.Either(
        Directory(exists=True),
        File(exists=True),
        mandatory=True,
        desc="ArchNGV's bioname folder, with MANIFEST.yaml; or a YAML file",
    )
    out_dir = Directory(mandatory=True, desc="folder of the circuit; all is computed in its build")
    until = traits.List(traits.Str, desc="stages to be reached; default: all")
    seed = traits.Range(low=0, high=2**32 - 1, desc="in place of that of the manifest")


_SEEDED = [name for name, stage in STAGES.items() if stage.is_seeded]


def _make_prepared_spec() -> type[TraitedSpec]:
    own: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": "What the stages of a circuit read.",
        "bioname": Directory(exists=True, desc="folder of MANIFEST.yaml, with absolute paths"),
        "manifest": File(exists=True, desc="that file"),
        "hoc_template": traits.Str(desc="electrical model"),
        "refinement_steps": traits.Int(desc="of the tetrahedral mesh"),
    }
    for key, name in PLACES.items():
        kind = Directory if key in FOLDERS else File
        own[name] = kind(exists=True, desc=f"{key} of common")
    for name in TNS_FILES:
        own[name] = File(exists=True, desc="parameters of synthesis")
    for stage in STAGES:
        own[f"{stage}_config"] = File(exists=True, desc=f"what {stage} reads of the manifest")
    for stage in _SEEDED:
        own[f"{stage}_seed"] = traits.Int(desc=f"seed of {stage}")
    return type("PreparedSpec", (TraitedSpec,), own)


PreparedSpec = _make_prepared_spec()
PREPARED = tuple(PreparedSpec().copyable_trait_names())


def list_prepared(prepared: "Prepared", manifest: Path) -> dict[str, Any]:
    """Return the outputs of `PrepareCircuit`."""
    outputs: dict[str, Any] = {
        "bioname": str(manifest.parent),
        "manifest": str(manifest),
        "refinement_steps": prepared.refinement_steps,
    }
    if prepared.hoc_template is not None:
        outputs["hoc_template"] = prepared.hoc_template
    files: Mapping[str, Path] = {**prepared.places, **prepared.files}
    outputs |= {name: str(path) for name, path in files.items()}
    outputs |= {f"{stage}_config": str(path) for stage, path in prepared.configs.items()}
    return outputs | {f"{stage}_seed": seed for stage, seed in prepared.seeds.items()}


class PrepareCircuit(NGVInterface):
    """Check what is asked of a circuit and all that it is made from; write down its recipe."""

    input_spec = _PrepareCircuitInputSpec
    output_spec = PreparedSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.checks.inputs import check_inputs
        from nipype_blm.ngv.environment.finding import find_environment
        from nipype_blm.ngv.layout import Layout
        from nipype_blm.ngv.recipe.prepare import prepare
        from nipype_blm.ngv.recipe.reading import read_recipe

        given = self.inputs
        until = given.until if isdefined(given.until) else None
        seed = given.seed if isdefined(given.seed) else None
        recipe = read_recipe(given.config, until, seed)
        python = given.ngv_python if isdefined(given.ngv_python) else recipe.ngv_python
        environment = find_environment(python, given.any_versions)
        layout = Layout(Path(runtime.cwd, given.out_dir).absolute())
        checked = check_inputs(recipe, environment)
        warn_of(checked.notices)
        prepared = prepare(recipe, environment, layout, checked.region)
        self._results = list_prepared(prepared, layout.manifest)
        return runtime


class _PlanSynthesisInputSpec(NGVInputSpec):
    config = File(exists=True, mandatory=True, desc="MANIFEST.yaml, or one with synthesis")
    tns_distributions = File(exists=True, mandatory=True, desc="barcodes and distributions")
    tns_parameters = File(exists=True, mandatory=True, desc="how branches grow")
    tns_context = File(exists=True, mandatory=True, desc="how far they are attracted")
    er_data = File(exists=True, mandatory=True, desc="endoplasmic reticulum")
    astrocytes = File(exists=True, mandatory=True, desc="of FinalizeAstrocytes")
    microdomains = File(exists=True, mandatory=True, desc="of BuildMicrodomains")
    gliovascular_connectivity = File(exists=True, mandatory=True, desc="of ConnectGliovascular")
    neuroglial_connectivity = File(exists=True, mandatory=True, desc="of ConnectNeuroglial")
    endfeet_meshes = File(exists=True, mandatory=True, desc="of GrowEndfeet")
    neuronal_connectivity = File(exists=True, mandatory=True, desc="synapses of neurons, SONATA")
    seed = traits.Range(
        low=0, high=2**32 - 1, value=0, usedefault=True, desc="of all cells: each has its own of it"
    )
    out_dir = Directory("morphologies", usedefault=True, desc="folder for morphologies")
    parallel_nodes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="nodes that run at the same time"
    )
    retries = traits.Range(
        low=0, value=2, usedefault=True, nohash=True, desc="of a cell whose machine failed"
    )


class _PlanSynthesisOutputSpec(TraitedSpec):
    plan_file = File(exists=True, desc="what every bundle reads")
    bundles = traits.List(traits.Int, desc="numbers of the bundles of cells")


class PlanSynthesis(NGVInterface):
    """See which astrocytes are still to be grown, and cut them into bundles."""

    input_spec = _PlanSynthesisInputSpec
    output_spec = _PlanSynthesisOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.environment.finding import find_environment
        from nipype_blm.ngv.synthesis import PLAN_FILE, Inputs, plan_synthesis

        given = self.inputs
        python = given.ngv_python if isdefined(given.ngv_python) else None
        versions = find_environment(python, given.any_versions).stamp
        files = Inputs(*(Path(getattr(given, name)).absolute() for name in Inputs._fields))
        folder = Path(runtime.cwd, given.out_dir)
        plan = plan_synthesis(
            files, given.seed, folder, versions, given.parallel_nodes, given.retries
        )
        path = Path(runtime.cwd, PLAN_FILE)
        plan.write(path)
        self._results = {"plan_file": str(path), "bundles": list(range(len(plan.bundles)))}
        return runtime


class _SynthesizeInputSpec(NGVInputSpec):
    plan_file = File(exists=True, mandatory=True, desc="of PlanSynthesis")
    bundle = traits.Int(mandatory=True, desc="number of the bundle of cells")


class _SynthesizeOutputSpec(TraitedSpec):
    failures = traits.List(
        traits.List(traits.Str), desc="name of each cell that could not be grown, and why"
    )


class SynthesizeAstrocytes(NGVInterface):
    """Grow some astrocytes, by a process that imports ArchNGV once for all of a worker."""

    input_spec, output_spec = _SynthesizeInputSpec, _SynthesizeOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.synthesis import synthesize

        python, plan_file = find_python(self.inputs), Path(self.inputs.plan_file).absolute()
        failures = synthesize(python, plan_file, self.inputs.bundle, Path(runtime.cwd))
        self._results["failures"] = [list(each) for each in failures]
        return runtime


class _GatherMorphologiesInputSpec(InputSpec):
    plan_file = File(exists=True, mandatory=True, desc="of PlanSynthesis")
    failures = traits.List(
        traits.List(traits.List(traits.Str)), desc="of SynthesizeAstrocytes, of all bundles"
    )


class _GatherMorphologiesOutputSpec(TraitedSpec):
    morphologies = Directory(exists=True, desc="folder of all morphologies")
    done_file = File(exists=True, desc="tells whether these have changed")


class GatherMorphologies(NGVInterface):
    """See that every astrocyte has its morphology; name those that have none."""

    input_spec, output_spec = _GatherMorphologiesInputSpec, _GatherMorphologiesOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.synthesis import Failure, gather

        found = self.inputs.failures if isdefined(self.inputs.failures) else []
        failures = [Failure(*each) for bundle in found for each in bundle]
        done = gather(Path(self.inputs.plan_file), failures)
        self._results = {"morphologies": str(done.parent), "done_file": str(done)}
        return runtime


class _CellsInputSpec(InputSpec):
    astrocytes = File(exists=True, mandatory=True, desc="of FinalizeAstrocytes")
    morphologies = Directory(exists=True, mandatory=True, desc="folder of all morphologies")
    done_file = File(exists=True, desc="of GatherMorphologies: tells whether these have changed")


class _PlanTouchesInputSpec(_CellsInputSpec):
    parallel_nodes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="nodes that run at the same time"
    )


class _PlanTouchesOutputSpec(TraitedSpec):
    boxes_file = File(exists=True, desc="boxes around all cells")
    sources = traits.List(traits.List(traits.Int), desc="numbers of cells, of each bundle")


class PlanTouches(NGVInterface):
    """Measure how far each astrocyte reaches, and cut them into bundles."""

    input_spec, output_spec = _PlanTouchesInputSpec, _PlanTouchesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.synthesis import MOST_IN_BUNDLE
        from nipype_blm.ngv.touches import measure_cells
        from nipype_blm.tasks.pieces import cut_evenly

        cells = _open_cells(self.inputs)
        path = Path(runtime.cwd, "boxes.npy")
        np.save(path, measure_cells(cells))
        n_nodes = self.inputs.parallel_nodes
        bundles = cut_evenly(range(len(cells)), n_nodes, MOST_IN_BUNDLE)
        self._results = {"boxes_file": str(path), "sources": bundles}
        return runtime


class _DetectTouchesInputSpec(_CellsInputSpec):
    boxes_file = File(exists=True, mandatory=True, desc="of PlanTouches")
    sources = traits.List(traits.Int, mandatory=True, desc="numbers of some cells")
    min_overlap = traits.Float(
        0.0, usedefault=True, desc="capsules touch if they overlap by more than this, um"
    )
    gap = traits.Float(
        5.0, usedefault=True, desc="overlaps of a section with a cell closer than this are one, um"
    )
    spacing = traits.Float(
        6.0, usedefault=True, desc="between touches of one overlap that is long, um"
    )


class DetectTouches(NGVInterface):
    """Find where some astrocytes touch all others."""

    input_spec, output_spec = _DetectTouchesInputSpec, OutFileSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.touches import find_touches

        given = self.inputs
        boxes = np.load(given.boxes_file, allow_pickle=False)
        options = given.min_overlap, given.gap, given.spacing
        touches = find_touches(_open_cells(given), given.sources, *options, boxes=boxes)
        path = Path(runtime.cwd, "touches.npy")
        np.save(path, touches)
        self._results["out_file"] = str(path)
        return runtime


class _TouchesOutputSpec(TraitedSpec):
    touches = Directory(exists=True, desc="folder of touches.* and touchesData.*")
    done_file = File(exists=True, desc="tells whether these have changed")


class _GatherTouchesInputSpec(InputSpec):
    touch_files = traits.List(
        File(exists=True), mandatory=True, desc="of DetectTouches, of all bundles"
    )
    out_dir = Directory("touches", usedefault=True, desc="folder for touches")


class GatherTouches(NGVInterface):
    """Write the touches of all bundles as touchdetector does."""

    input_spec, output_spec = _GatherTouchesInputSpec, _TouchesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.touches import finish_touches, write_touches

        # Of bundles of cells in their order: however these were cut, the whole is the same.
        parts = [np.load(path, allow_pickle=False) for path in self.inputs.touch_files]
        folder = Path(runtime.cwd, self.inputs.out_dir)
        write_touches(folder, 0, np.concatenate(parts))
        finish_touches(folder, 1)
        self._results = _find_touches(folder)
        return runtime


class _RunTouchDetectorInputSpec(_CellsInputSpec):
    command = traits.Str(
        mandatory=True,
        desc="a command with {astrocytes}, {morphologies}, {recipe} and {touches} in it",
    )
    recipe = File(exists=True, desc="for the command, an XML file")
    out_dir = Directory("touches", usedefault=True, desc="folder for touches")


class RunTouchDetector(NGVInterface):
    """Have another program find touches, such as touchdetector, where it is installed."""

    input_spec, output_spec = _RunTouchDetectorInputSpec, _TouchesOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.running import run_touch_detector

        given = self.inputs
        folder = Path(runtime.cwd, given.out_dir)
        places = {
            "astrocytes": Path(given.astrocytes).absolute(),
            "morphologies": Path(given.morphologies).absolute(),
            "touches": folder,
        }
        if isdefined(given.recipe):
            places["recipe"] = Path(given.recipe).absolute()
        run_touch_detector(given.command, places, Path(runtime.cwd, "touches.log"))
        self._results = _find_touches(folder)
        return runtime


class _CheckIntegrityInputSpec(NGVInputSpec):
    config = File(exists=True, mandatory=True, desc="ngv_config.json, of WriteCircuitConfig")
    vasculature = File(exists=True, mandatory=True, desc="of VasculatureToSonata")
    astrocytes = File(exists=True, mandatory=True, desc="of FinalizeAstrocytes")
    gliovascular = File(exists=True, mandatory=True, desc="of FinalizeGliovascular")
    neuroglial = File(exists=True, mandatory=True, desc="of FinalizeNeuroglial")
    glialglial = File(exists=True, mandatory=True, desc="of ConnectGlialglial")
    microdomains = File(exists=True, mandatory=True, desc="of BuildMicrodomains")
    endfeet_meshes = File(exists=True, mandatory=True, desc="of GrowEndfeet")
    done_file = File(exists=True, desc="of GatherMorphologies: tells whether these have changed")
    out_file = File("integrity.txt", usedefault=True, hash_files=False, desc="what was said")


class CheckIntegrity(NGVInterface):
    """Let ArchNGV check that all parts of a circuit fit together."""

    input_spec, output_spec = _CheckIntegrityInputSpec, OutFileSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.io.files import describe_state, write_if_changed
        from nipype_blm.ngv.environment.companion import run_command
        from nipype_blm.ngv.running import StageError

        config = Path(self.inputs.config).absolute()
        place, log = Path(runtime.cwd, self.inputs.out_file), Path(runtime.cwd, "ngv.log")
        log.unlink(missing_ok=True)
        argv = ["ngv", "verify-circuit-integrity", str(config)]
        ended = run_command(find_python(self.inputs), argv, Path(runtime.cwd), log)
        if ended.code:
            place.unlink(missing_ok=True)
            raise StageError(
                f"The circuit of {config} is not whole, says ArchNGV: {ended.describe()}\nAll that "
                f"it said is in {log}."
            )
        write_if_changed(place, b"ngv verify-circuit-integrity: all parts fit together\n")
        self._results = {"out_file": str(place), "state": describe_state(place)}
        return runtime


def _find_touches(folder: Path) -> dict[str, str]:
    from nipype_blm.ngv.running import SUCCESS

    return {"touches": str(folder), "done_file": str(folder / SUCCESS)}


def _open_cells(inputs: _CellsInputSpec) -> "Cells":
    from nipype_blm.ngv.circuit.morphologies import Cells, read_somata

    return Cells(read_somata(Path(inputs.astrocytes)), Path(inputs.morphologies))
