"""Each stage of a circuit by itself: from ArchNGV's expected files to its expected files."""

import gzip
import inspect
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from nipype import Node
from nipype.interfaces.base import Directory, File

from nipype_blm.errors import InputError
from nipype_blm.interfaces import circuit, ngv
from nipype_blm.ngv.running import StageError

h5py = pytest.importorskip("h5py")

# As ArchNGV's own tests have it; units are um, um^2 and um^3.
ATOL = 1e-4
# um: of places on vessels; other processors round otherwise.
ATOL_OF = {"endfoot_surface": 7e-4}

TMP, NETWORKS = "expected/sonata.tmp", "expected/sonata/networks"
MANIFEST, ATLAS, NEURONS = "bioname/MANIFEST.yaml", "data/atlas", "data/circuit/nodes.h5"
SYNAPSES, DOMAINS = "data/circuit/edges.h5", "expected/microdomains.h5"
CELLS, VESSELS = f"{NETWORKS}/nodes/astrocytes/nodes.h5", f"{NETWORKS}/nodes/vasculature/nodes.h5"
SOMATA, EMODELS = f"{TMP}/nodes/glia.somata.h5", f"{TMP}/nodes/glia.emodels.h5"
GLIOVASCULAR = f"{TMP}/edges/gliovascular.connectivity.h5"
NEUROGLIAL = f"{TMP}/edges/neuroglial.connectivity.h5"
ENDFEET, MORPHOLOGIES = "expected/endfeet_meshes.h5", "expected/morphologies"
# Inputs that are paths, those that are none, and what is expected.
STAGES = {
    "VasculatureToSonata": ({"in_file": f"{ATLAS}/vasculature.h5"}, {}, VESSELS),
    "PlaceCells": ({"config": MANIFEST, "atlas": ATLAS, "vasculature": VESSELS}, {}, SOMATA),
    "AssignEmodels": ({"in_file": SOMATA}, {"hoc_template": "astrocyte.hoc"}, EMODELS),
    "FinalizeAstrocytes": ({"somata": SOMATA, "emodels": EMODELS}, {}, CELLS),
    "BuildMicrodomains": ({"config": MANIFEST, "astrocytes": CELLS, "atlas": ATLAS}, {}, DOMAINS),
    "ConnectGliovascular": (
        {
            "config": MANIFEST,
            "astrocytes": CELLS,
            "microdomains": DOMAINS,
            "vasculature": VESSELS,
        },
        {},
        GLIOVASCULAR,
    ),
    "ConnectNeuroglial": (
        {
            "neurons": NEURONS,
            "astrocytes": CELLS,
            "microdomains": DOMAINS,
            "neuronal_connectivity": SYNAPSES,
            "synapse_index": "data/circuit/spatial_index_synapses",
        },
        {},
        NEUROGLIAL,
    ),
    "GrowEndfeet": (
        {
            "config": MANIFEST,
            "vasculature_mesh": f"{ATLAS}/vasculature.obj",
            "gliovascular_connectivity": GLIOVASCULAR,
        },
        {},
        ENDFEET,
    ),
    "FinalizeGliovascular": (
        {
            "in_file": GLIOVASCULAR,
            "astrocytes": CELLS,
            "endfeet_meshes": ENDFEET,
            "vasculature": VESSELS,
            "morphologies": MORPHOLOGIES,
        },
        {},
        f"{NETWORKS}/edges/gliovascular/edges.h5",
    ),
    "FinalizeNeuroglial": (
        {
            "in_file": NEUROGLIAL,
            "astrocytes": CELLS,
            "microdomains": DOMAINS,
            "neuronal_connectivity": SYNAPSES,
            "morphologies": MORPHOLOGIES,
        },
        {},
        f"{NETWORKS}/edges/neuroglial/edges.h5",
    ),
    "PrepareMesh": (
        {"config": MANIFEST, "astrocytes": CELLS, "neurons": NEURONS, "vasculature": VESSELS},
        {},
        "expected/ngv_prepared_tetrahedral_mesh.geo",
    ),
}
SEEDED = ["PlaceCells", "BuildMicrodomains", "ConnectGliovascular", "GrowEndfeet"]
INTERFACES = [
    each
    for module in (ngv, circuit)
    for each in vars(module).values()
    if inspect.isclass(each)
    and issubclass(each, ngv.NGVInterface)
    and each.__module__ == module.__name__
    and each.__name__ not in ("NGVInterface", "ArchNGVInterface")
]


@pytest.fixture
def make_stage(functional_circuit, ngv_python):
    """Function that returns the interface of a stage on the circuit of ArchNGV's tests."""

    def make(name, **options):
        paths, others, _ = STAGES[name]
        given = {key: functional_circuit / path for key, path in paths.items()} | others
        return getattr(ngv, name)(ngv_python=ngv_python, any_versions=True, **(given | options))

    return make


def read_all(path):
    """Return all that an HDF5 file holds, by name."""
    found = {}

    def note(name, each):
        found.update({f"{name}@{key}": value for key, value in each.attrs.items()})
        if isinstance(each, h5py.Dataset):
            found[name] = each[()]

    with h5py.File(path) as file:
        note("", file)
        file.visititems(note)
    return found


def assert_same(path, expected_path):
    if path.suffix != ".h5":
        assert path.read_bytes() == expected_path.read_bytes()
        return
    found, expected = read_all(path), read_all(expected_path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if np.asarray(values).dtype.kind == "f":
            atol = next((a for key, a in ATOL_OF.items() if key in name), ATOL)
            np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_writes_what_archngv_expects(make_stage, functional_circuit, tmp_path, name):
    expected = functional_circuit / STAGES[name][2]
    out_file = "a b/" + getattr(ngv, name).input_spec().out_file
    found = Path(make_stage(name, out_file=out_file).run(cwd=tmp_path).outputs.out_file)
    assert found == tmp_path / out_file
    assert_same(found.with_suffix(expected.suffix), expected)
    assert [path.name for path in found.parent.iterdir() if path.suffix == ".part"] == []


def test_a_mesh_is_filled_and_refined_as_archngv_expects(
    make_stage, functional_circuit, ngv_python, tmp_path
):
    where = {"ngv_python": ngv_python, "any_versions": True}
    surface = make_stage("PrepareMesh").run(cwd=tmp_path).outputs.out_file
    volume = ngv.BuildMesh(in_file=surface, **where).run(cwd=tmp_path).outputs.out_file
    refined = ngv.RefineMesh(in_file=volume, **where).run(cwd=tmp_path).outputs.out_file
    assert_same(Path(refined), functional_circuit / "expected" / "ngv_refined_tetrahedral_mesh.msh")
    twice = ngv.RefineMesh(in_file=volume, steps=2, out_file="twice.msh", **where)
    twice.run(cwd=tmp_path)
    n_tetrahedra = [
        sum(len(line.split()) == 5 for line in path.read_text().splitlines())
        for path in (tmp_path / "twice.msh", Path(refined))
    ]
    assert n_tetrahedra[0] == 8 * n_tetrahedra[1] > 0


def test_touches_that_were_found_become_gap_junctions(functional_circuit, ngv_python, tmp_path):
    from nipype_blm.ngv.circuit.morphologies import Cells, read_somata
    from nipype_blm.ngv.touches import find_touches, finish_touches, write_touches

    cells = Cells(
        read_somata(functional_circuit / CELLS), functional_circuit / "expected" / "morphologies"
    )
    touches = find_touches(cells, range(5))
    write_touches(tmp_path / "touches", 0, touches)
    finish_touches(tmp_path / "touches", 1)
    joined = ngv.ConnectGlialglial(
        astrocytes=functional_circuit / CELLS,
        touches=tmp_path / "touches",
        ngv_python=ngv_python,
        any_versions=True,
    ).run(cwd=tmp_path)
    with h5py.File(joined.outputs.out_file) as file:
        n = len(file["edges/glialglial/source_node_id"])
    assert n == len(touches) > 0


@pytest.mark.parametrize("name", SEEDED)
def test_another_seed_gives_something_else(make_stage, functional_circuit, tmp_path, name):
    # That the same seed gives the same again is seen above, for that of what is expected.
    found = read_all(make_stage(name, seed=1).run(cwd=tmp_path).outputs.out_file)
    expected = read_all(functional_circuit / STAGES[name][2])
    assert not all(np.array_equal(values, found[key]) for key, values in expected.items())


def test_a_seed_gives_the_same_bytes_again(make_stage, tmp_path):
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        found = make_stage("BuildMicrodomains", seed=5).run(cwd=tmp_path / folder).outputs.out_file
        contents.append(Path(found).read_bytes())
    assert contents[0] == contents[1]


def test_a_file_that_would_be_the_same_keeps_its_time(make_stage, tmp_path):
    stage = make_stage("AssignEmodels")
    place = Path(stage.run(cwd=tmp_path).outputs.out_file)
    os.utime(place, ns=(1, 1))
    stage.run(cwd=tmp_path)
    assert place.stat().st_mtime_ns == 1


@pytest.mark.parametrize("name", ["AssignEmodels", "VasculatureToSonata", "PrepareMesh"])
def test_its_command_does_the_same_in_a_shell(make_stage, ngv_python, tmp_path, name):
    stage = make_stage(name, out_file="a 'b.stl" if name == "PrepareMesh" else "a 'b.h5")
    done = subprocess.run(
        ["sh", "-c", stage.cmdline],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{ngv_python.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "node").mkdir()
    found = stage.run(cwd=tmp_path / "node").outputs.out_file
    written = tmp_path / stage.inputs.out_file
    if name == "PrepareMesh":
        assert written.read_bytes() == Path(found).read_bytes()
    else:
        assert_same(written, Path(found))


def test_the_command_of_a_script_begins_with_python(tmp_path):
    (tmp_path / "a b.msh").touch()
    words = shlex.split(ngv.RefineMesh(in_file=tmp_path / "a b.msh", steps=3).cmdline)
    assert words[0] == "python"
    assert Path(words[1]).is_file()
    assert words[2:] == [
        *("refine", str(tmp_path / "a b.msh"), "ngv_refined_tetrahedral_mesh.msh", "3")
    ]


def test_a_command_without_what_it_needs_is_refused(functional_circuit):
    with pytest.raises(ValueError, match="PlaceCells requires a value for input 'atlas'"):
        ngv.PlaceCells(config=functional_circuit / MANIFEST).cmdline  # noqa: B018
    with pytest.raises(ValueError, match="PlaceCells requires a value for input 'atlas'"):
        ngv.PlaceCells(config=functional_circuit / MANIFEST).run()


def test_only_paths_become_absolute(make_stage, functional_circuit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "astrocytes").mkdir()
    (tmp_path / "astrocyte.hoc").touch()
    (tmp_path / "0").touch()
    words = shlex.split(make_stage("PlaceCells").cmdline)
    assert words[words.index("--population-name") + 1] == "astrocytes"
    assert words[words.index("--seed") + 1] == "0"
    shutil.copy(functional_circuit / SOMATA, "somata.h5")
    words = shlex.split(make_stage("AssignEmodels", in_file="somata.h5").cmdline)
    assert words[words.index("--hoc") + 1] == "astrocyte.hoc"
    assert words[words.index("--input") + 1] == str(tmp_path / "somata.h5")
    assert words[words.index("--output") + 1] == "glia.emodels.h5"
    # Its command runs in another folder than where it is asked to.
    assert_same(
        Path(make_stage("AssignEmodels", in_file="somata.h5").run().outputs.out_file),
        functional_circuit / EMODELS,
    )


def test_a_stage_may_have_processes(make_stage):
    assert "--parallel" not in make_stage("FinalizeNeuroglial").cmdline
    assert "--parallel" in shlex.split(make_stage("FinalizeNeuroglial", n_procs=2).cmdline)


def test_a_stage_that_fails_says_why_and_leaves_what_was_there(make_stage, tmp_path):
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"no HDF5")
    (tmp_path / "edges").mkdir()
    place = tmp_path / "edges" / "out.h5"
    place.write_bytes(b"of before")
    stage = make_stage("ConnectGliovascular", astrocytes=broken, out_file="edges/out.h5")
    with pytest.raises(StageError) as caught:
        stage.run(cwd=tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.startswith("ngv gliovascular-connectivity has failed: ")
    log = tmp_path / "ngv.log"
    assert second == f"All that it said is in {log}."
    reason = first.removeprefix("ngv gliovascular-connectivity has failed: ")
    assert reason in log.read_text()
    assert place.read_bytes() == b"of before"
    assert list((tmp_path / "edges").iterdir()) == [place]


def test_a_density_that_gives_no_astrocyte_is_told(make_stage, functional_circuit, tmp_path):
    atlas = shutil.copytree(functional_circuit / ATLAS, tmp_path / "atlas")
    path = atlas / "[density]astrocytes.nrrd"
    header, _, _ = path.read_bytes().partition(b"\n\n")
    assert b"type: float" in header
    assert b"encoding: gzip" in header
    sizes = next(line for line in header.splitlines() if line.startswith(b"sizes:"))
    n_voxels = np.prod([int(size) for size in sizes.split()[1:]])
    path.write_bytes(header + b"\n\n" + gzip.compress(np.zeros(n_voxels, "<f4").tobytes()))
    with pytest.raises(InputError, match=r"glia.somata.h5 has no astrocyte: the density"):
        make_stage("PlaceCells", atlas=atlas).run(cwd=tmp_path)


def test_a_region_that_the_atlas_does_not_have_is_told(make_stage, functional_circuit, tmp_path):
    text = (functional_circuit / MANIFEST).read_text()
    (tmp_path / "MANIFEST.yaml").write_text(text.replace("region: 'H'", "region: nowhere"))
    with pytest.raises(StageError, match="Region not found: 'nowhere'"):
        make_stage("PlaceCells", config=tmp_path / "MANIFEST.yaml").run(cwd=tmp_path)
    assert not (tmp_path / "glia.somata.h5").exists()


def test_without_an_environment_the_command_that_makes_one_is_named(
    make_stage, functional_circuit, tmp_path, monkeypatch
):
    monkeypatch.delenv("NIPYPE_BLM_NGV_PYTHON", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stage = ngv.AssignEmodels(in_file=functional_circuit / SOMATA, hoc_template="a")
    with pytest.raises(InputError, match="`nipype-blm ngv install` makes it"):
        stage.run(cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [
        "input_error.json"
    ]  # for commands, which tell it anew


def test_a_node_runs_again_when_an_input_changes_and_only_then(
    make_stage, functional_circuit, tmp_path
):
    shutil.copy(functional_circuit / SOMATA, tmp_path / "somata.h5")

    def run(hoc_template="astrocyte.hoc"):
        stage = make_stage("AssignEmodels", in_file=tmp_path / "somata.h5")
        stage.inputs.hoc_template = hoc_template
        node = Node(stage, name="emodels", base_dir=str(tmp_path))
        record = tmp_path / "emodels" / "result_emodels.pklz"
        if record.exists():
            os.utime(record, ns=(1, 1))
        node.run()
        return record.stat().st_mtime_ns != 1

    assert [run(), run()] == [True, False]
    os.utime(tmp_path / "somata.h5", ns=(1, 1))
    assert [run(), run()] == [True, False]
    assert [run("other"), run("other")] == [True, False]


@pytest.mark.parametrize("interface", INTERFACES)
def test_each_interface_has_help_and_names_what_to_cite(interface, capsys):
    interface.help()
    said = capsys.readouterr().out
    spec = interface.input_spec()
    for name in spec.copyable_trait_names():
        assert name in said
        assert spec.trait(name).desc
    assert interface.__doc__.splitlines()[0] in said
    (reference,) = interface._references  # whose entry is only there with duecredit
    assert reference["description"] == "ArchNGV"


@pytest.mark.parametrize(
    "interface", [each for each in INTERFACES if issubclass(each, ngv.ArchNGVInterface)]
)
def test_each_flag_is_one_that_the_command_knows(interface, ngv_python, functional_circuit):
    """Options of the source of ArchNGV, whatever a stage makes of them."""
    if interface._command[0] != "ngv":
        return
    source = (functional_circuit.parents[1] / "archngv" / "app" / "ngv.py").read_text()
    for _, trait in interface.input_spec().traits(flag=lambda flag: bool(flag)).items():
        assert f'"{trait.flag}"' in source
        if trait.flag == "--parallel":
            assert trait.trait_type.__class__.__name__ == "Bool"
        elif trait.flag.endswith(("-path", "-file", "-dir", "--atlas", "--bioname")):
            assert trait.is_trait_type((File, Directory))
