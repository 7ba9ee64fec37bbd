"""Neuro-glia-vasculature circuits: an interface for each command of ArchNGV."""

import shlex
from pathlib import Path
from typing import Any, ClassVar

from nipype.external.due import BibTeX
from nipype.interfaces.base import Directory, File, TraitedSpec, isdefined, traits
from nipype.interfaces.base.traits_extension import BasePath

from nipype_blm.interfaces.base import BLMInterface, InputSpec
from nipype_blm.ngv.environment.companion import SCRIPTS
from nipype_blm.ngv.layout import ASTROCYTES, GLIALGLIAL, GLIOVASCULAR, NEUROGLIAL

_NGV_REFERENCE = BibTeX(
    "@article{archngv, author={Zisis, Eleftherios and Keller, Daniel and Kanari, Lida and others},"
    "title={Digital reconstruction of the neuro-glia-vascular architecture},"
    "journal={Cerebral Cortex}, volume={31}, number={12}, pages={5686--5703}, year={2021},"
    "doi={10.1093/cercor/bhab254}}"
)


class NGVInterface(BLMInterface):
    """Base of all stages of a circuit."""

    _references: ClassVar = [
        {"entry": _NGV_REFERENCE, "description": "ArchNGV", "tags": ["implementation"]}
    ]


class NGVInputSpec(InputSpec):
    """Where a stage runs."""

    ngv_python = File(
        exists=True,
        nohash=True,
        desc="Python of the environment with ArchNGV; default: that of `nipype-blm ngv install`",
    )
    any_versions = traits.Bool(
        False,
        usedefault=True,
        nohash=True,
        desc="take that environment also with other versions than those that work together",
    )
    recipe_file = File(
        exists=True, desc="of PrepareCircuit: the stage runs again when that changes"
    )


def find_python(inputs: NGVInputSpec) -> Path:
    """Return the Python of a stage.

    Raises
    ------
    InputError
        If there is none, or it lacks something.
    """
    from nipype_blm.ngv.environment.finding import find_environment

    given = inputs.ngv_python if isdefined(inputs.ngv_python) else None
    return find_environment(given, inputs.any_versions).python


class ArchNGVInterface(NGVInterface):
    """Base of the stages that are one command, whose flags are metadata of its inputs."""

    _command: ClassVar[tuple[str, ...]]

    @property
    def cmdline(self) -> str:
        """The command, for a shell in the environment of ArchNGV."""
        self._check_mandatory_inputs()
        argv = self._make_argv(self.inputs.out_file)
        return shlex.join(["python", *argv] if argv[0].endswith(".py") else argv)

    def _make_argv(self, out_file: str) -> list[str]:
        argv, positional = list(self._command), []
        for name, trait in sorted(self.inputs.traits(flag=lambda flag: flag is not None).items()):
            value = out_file if name == "out_file" else getattr(self.inputs, name)
            if value is True:
                argv.append(trait.flag)
            elif isdefined(value) and value is not False:
                is_given_path = trait.is_trait_type(BasePath) and name != "out_file"
                text = str(Path(value).absolute()) if is_given_path else str(value)
                argv += [trait.flag, text] if trait.flag else []
                positional += [] if trait.flag else [text]
        if getattr(self.inputs, "n_procs", 1) > 1:
            argv.append("--parallel")
        return argv + positional

    def _list_files(self, place: Path) -> dict[str, Path]:
        """Return the files that are written, and where they go."""
        return {place.name: place}

    def _list_further_commands(self, out_file: str) -> list[list[str]]:
        """Return what is to be done with what was written."""
        return []

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.io.files import describe_state
        from nipype_blm.ngv.running import run_stage

        place = Path(runtime.cwd, self.inputs.out_file)
        commands = [self._make_argv(place.name), *self._list_further_commands(place.name)]
        log = Path(runtime.cwd, "ngv.log")
        n_procs = getattr(self.inputs, "n_procs", 1)
        run_stage(find_python(self.inputs), commands, self._list_files(place), log, n_procs)
        self._results = {"out_file": str(place), "state": describe_state(place)}
        return runtime


def _file(flag: str, desc: str, **options: Any) -> Any:
    return File(exists=True, mandatory=True, flag=flag, desc=desc, **options)


def _seed() -> Any:
    return traits.Range(
        low=0, high=2**32 - 1, value=0, usedefault=True, flag="--seed", desc="seed of what is drawn"
    )


def _name(value: str) -> Any:
    return traits.Str(value, usedefault=True, flag="--population-name", desc="population")


def _out(name: str, flag: str = "--output") -> Any:
    # Its content is not what the stage depends on.
    desc = "file to write; default: in the node"
    return File(name, usedefault=True, hash_files=False, flag=flag, desc=desc)


_CONFIG = "MANIFEST.yaml, or one with the sections that are read"
_NODES = "astrocytes, of FinalizeAstrocytes"


class OutFileSpec(TraitedSpec):
    """The output of a stage that writes one file."""

    out_file = File(exists=True, desc="what was written")
    state = traits.Str(desc="size and time of it, which tell whether something else is there now")


def _index(edges: str, *nodes: str) -> list[str]:
    return [str(SCRIPTS / "index_edges.py"), edges, *(str(Path(path).absolute()) for path in nodes)]


class _VasculatureInputSpec(NGVInputSpec):
    in_file = _file("", "vasculature as sections, HDF5")
    out_file = _out("nodes.h5", "")


class VasculatureToSonata(ArchNGVInterface):
    """Write a vasculature as a SONATA population, a node for each segment."""

    input_spec, output_spec = _VasculatureInputSpec, OutFileSpec
    _command = ("vascpy", "morphology-to-sonata")


class _PlaceCellsInputSpec(NGVInputSpec):
    config = _file("--config", _CONFIG)
    atlas = Directory(exists=True, mandatory=True, flag="--atlas", desc="folder of the atlas")
    vasculature = _file("--vasculature", "vessels, which somata do not touch")
    population_name = _name(ASTROCYTES)
    seed = _seed()
    out_file = _out("glia.somata.h5")


class PlaceCells(ArchNGVInterface):
    """Place astrocytes at the density of an atlas, apart from each other and from vessels."""

    input_spec, output_spec = _PlaceCellsInputSpec, OutFileSpec
    _command = ("ngv", "cell-placement")

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.synthesis import read_names

        super()._run_interface(runtime)
        read_names(Path(self._results["out_file"]))  # there are some
        return runtime


class _AssignEmodelsInputSpec(NGVInputSpec):
    in_file = _file("--input", "somata, of PlaceCells")
    hoc_template = traits.Str(mandatory=True, flag="--hoc", desc="name of the template")
    out_file = _out("glia.emodels.h5")


class AssignEmodels(ArchNGVInterface):
    """Give each astrocyte its electrical model."""

    input_spec, output_spec = _AssignEmodelsInputSpec, OutFileSpec
    _command = ("ngv", "assign-emodels")


class _FinalizeAstrocytesInputSpec(NGVInputSpec):
    somata = _file("--somata-file", "of PlaceCells")
    emodels = _file("--emodels-file", "of AssignEmodels")
    out_file = _out("nodes.h5")


class FinalizeAstrocytes(ArchNGVInterface):
    """Write the population of astrocytes with all that is known of each."""

    input_spec, output_spec = _FinalizeAstrocytesInputSpec, OutFileSpec
    _command = ("ngv", "finalize-astrocytes")


class _BuildMicrodomainsInputSpec(NGVInputSpec):
    config = _file("--config", _CONFIG)
    astrocytes = _file("--astrocytes", _NODES)
    atlas = Directory(exists=True, mandatory=True, flag="--atlas", desc="folder of the atlas")
    seed = _seed()
    out_file = _out("microdomains.h5", "--output-file-path")


class BuildMicrodomains(ArchNGVInterface):
    """Give each astrocyte its domain: a convex part of space that overlaps with its neighbours."""

    input_spec, output_spec = _BuildMicrodomainsInputSpec, OutFileSpec
    _command = ("ngv", "microdomains")

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.ngv.synthesis import check_domains, read_names

        super()._run_interface(runtime)
        names = read_names(Path(self.inputs.astrocytes))
        check_domains(Path(self._results["out_file"]), names)
        return runtime


class _ConnectGliovascularInputSpec(NGVInputSpec):
    config = _file("--config", _CONFIG)
    astrocytes = _file("--astrocytes", _NODES)
    microdomains = _file("--microdomains", "of BuildMicrodomains")
    vasculature = _file("--vasculature", "of VasculatureToSonata")
    population_name = _name(GLIOVASCULAR)
    seed = _seed()
    out_file = _out("gliovascular.connectivity.h5")


class ConnectGliovascular(ArchNGVInterface):
    """Choose where on vessels astrocytes have their endfeet."""

    input_spec, output_spec = _ConnectGliovascularInputSpec, OutFileSpec
    _command = ("ngv", "gliovascular-connectivity")


class _ConnectNeuroglialInputSpec(NGVInputSpec):
    neurons = _file("--neurons-path", "population of neurons, SONATA")
    astrocytes = _file("--astrocytes-path", _NODES)
    microdomains = _file("--microdomains-path", "of BuildMicrodomains")
    neuronal_connectivity = _file("--neuronal-connectivity-path", "synapses of neurons, SONATA")
    synapse_index = Directory(
        exists=True,
        mandatory=True,
        flag="--spatial-synapse-index-dir",
        desc="spatial index of these synapses, a folder",
    )
    population_name = _name(NEUROGLIAL)
    seed = _seed()
    out_file = _out("neuroglial.connectivity.h5", "--output-path")


class ConnectNeuroglial(ArchNGVInterface):
    """Give each synapse to the astrocyte in whose domain it is."""

    input_spec, output_spec = _ConnectNeuroglialInputSpec, OutFileSpec
    _command = ("ngv", "neuroglial-connectivity")

    def _list_further_commands(self, out_file: str) -> list[list[str]]:
        return [_index(out_file, self.inputs.astrocytes, self.inputs.neurons)]


class _GrowEndfeetInputSpec(NGVInputSpec):
    config = _file("--config-path", _CONFIG)
    vasculature_mesh = _file("--vasculature-mesh-path", "surface of the vessels, .obj")
    gliovascular_connectivity = _file("--gliovascular-connectivity-path", "of ConnectGliovascular")
    seed = _seed()
    out_file = _out("endfeet_meshes.h5", "--output-path")


class GrowEndfeet(ArchNGVInterface):
    """Grow endfeet on the surface of vessels, each to its area."""

    input_spec, output_spec = _GrowEndfeetInputSpec, OutFileSpec
    _command = ("ngv", "endfeet-area")


class _CompletedInputSpec(NGVInputSpec):
    morphologies = Directory(
        exists=True, mandatory=True, flag="--morph-dir", desc="folder of all morphologies"
    )
    done_file = File(exists=True, desc="of GatherMorphologies: tells whether these have changed")
    n_procs = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="processes; more than one: --parallel"
    )
    seed = _seed()


class _FinalizeGliovascularInputSpec(_CompletedInputSpec):
    in_file = _file("--input-file", "of ConnectGliovascular")
    astrocytes = _file("--astrocytes", _NODES)
    endfeet_meshes = _file("--endfeet-meshes-path", "of GrowEndfeet")
    vasculature = _file("--vasculature-sonata", "of VasculatureToSonata")
    out_file = _out("edges.h5", "--output-file")


class FinalizeGliovascular(ArchNGVInterface):
    """Add to each endfoot the section of its astrocyte, and its size."""

    input_spec, output_spec = _FinalizeGliovascularInputSpec, OutFileSpec
    _command = ("ngv", "attach-endfeet-info-to-gliovascular-connectivity")


class _FinalizeNeuroglialInputSpec(_CompletedInputSpec):
    in_file = _file("--input-file-path", "of ConnectNeuroglial")
    astrocytes = _file("--astrocytes-path", _NODES)
    microdomains = _file("--microdomains-path", "of BuildMicrodomains")
    neuronal_connectivity = _file("--synaptic-data-path", "synapses of neurons, SONATA")
    out_file = _out("edges.h5", "--output-file-path")


class FinalizeNeuroglial(ArchNGVInterface):
    """Add to each synapse the nearest place on the morphology of its astrocyte."""

    input_spec, output_spec = _FinalizeNeuroglialInputSpec, OutFileSpec
    _command = ("ngv", "attach-morphology-info-to-neuroglial-connectivity")


class _ConnectGlialglialInputSpec(NGVInputSpec):
    astrocytes = _file("--astrocytes", _NODES)
    touches = Directory(
        exists=True,
        mandatory=True,
        flag="--touches-dir",
        desc="folder with touches.* and touchesData.*, of GatherTouches or of touchdetector",
    )
    done_file = File(exists=True, desc="of GatherTouches: tells whether these have changed")
    population_name = _name(GLIALGLIAL)
    seed = _seed()
    out_file = _out("edges.h5", "--output-connectivity")


class ConnectGlialglial(ArchNGVInterface):
    """Write gap junctions between astrocytes, from their touches."""

    input_spec, output_spec = _ConnectGlialglialInputSpec, OutFileSpec
    _command = ("ngv", "glialglial-connectivity")

    def _list_further_commands(self, out_file: str) -> list[list[str]]:
        return [_index(out_file, self.inputs.astrocytes, self.inputs.astrocytes)]


class _PrepareMeshInputSpec(NGVInputSpec):
    config = _file("--config-path", _CONFIG)
    astrocytes = _file("--astrocytes-path", _NODES)
    neurons = _file("--neurons-path", "population of neurons, SONATA")
    vasculature = _file("--vasculature-path", "of VasculatureToSonata")
    out_file = _out("ngv_prepared_tetrahedral_mesh.stl", "--output-path")


class PrepareMesh(ArchNGVInterface):
    """Write the convex hull of all somata and vessels, with a script for Gmsh beside it."""

    input_spec, output_spec = _PrepareMeshInputSpec, OutFileSpec
    _command = ("ngv", "refined-surface-mesh")

    def _list_files(self, place: Path) -> dict[str, Path]:
        script = place.with_suffix(".geo")
        return {place.name: place, script.name: script}


class _BuildMeshInputSpec(NGVInputSpec):
    in_file = _file("", "closed surface, .stl")
    out_file = _out("ngv_tetrahedral_mesh.msh", "")


class BuildMesh(ArchNGVInterface):
    """Fill a closed surface with tetrahedra, by Gmsh."""

    input_spec, output_spec = _BuildMeshInputSpec, OutFileSpec
    _command = (str(SCRIPTS / "mesh.py"), "build")


class _RefineMeshInputSpec(NGVInputSpec):
    in_file = _file("", "tetrahedra, .msh")
    out_file = _out("ngv_refined_tetrahedral_mesh.msh", "")
    # After both files, in the order of the alphabet.
    steps = traits.Range(low=0, value=1, usedefault=True, flag="", desc="how often each is split")


class RefineMesh(ArchNGVInterface):
    """Split each tetrahedron into eight, some times, by Gmsh."""

    input_spec, output_spec = _RefineMeshInputSpec, OutFileSpec
    _command = (str(SCRIPTS / "mesh.py"), "refine")


class _WriteConfigInputSpec(NGVInputSpec):
    bioname = Directory(
        exists=True, mandatory=True, flag="--bioname", desc="folder of MANIFEST.yaml"
    )
    manifest = File(exists=True, desc="that file: tells whether it has changed")
    out_file = _out("ngv_config.json")


class WriteCircuitConfig(ArchNGVInterface):
    """Write the SONATA configuration of a circuit, by which programs find all of its files."""

    input_spec, output_spec = _WriteConfigInputSpec, OutFileSpec
    _command = ("ngv", "config-file")
