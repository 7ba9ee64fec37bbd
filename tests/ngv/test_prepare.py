"""A recipe is written down stage by stage: a node runs again when what it reads has changed."""

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from nipype_blm.errors import InputError
from nipype_blm.interfaces.circuit import PrepareCircuit
from nipype_blm.ngv.environment.finding import Environment
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.prepare import PLACES, prepare
from nipype_blm.ngv.recipe.reading import read_recipe
from nipype_blm.ngv.stages import STAGES, TNS_FILES

VERSIONS = {"archngv": "3.3.0"}


@pytest.fixture
def source(functional_circuit, tmp_path):
    """Folder of a circuit that a test may change."""
    for name in ("bioname", "data"):
        shutil.copytree(functional_circuit / name, tmp_path / "source" / name)
    return tmp_path / "source"


@pytest.fixture
def write(source, tmp_path):
    """Function that writes the recipe down; it returns what is written, and when."""

    def perform(text="", versions=VERSIONS, until=None):
        config = source / "circuit.yaml"
        config.write_text(f"bioname: bioname\n{text}")
        layout = Layout(tmp_path / "circuit")
        prepare(read_recipe(config, until), Environment(Path("python"), versions), layout)
        return {
            str(path.relative_to(layout.recipe)): path.stat().st_mtime_ns
            for path in layout.recipe.rglob("*.*")
        }

    return perform


def compare(one, other):
    """Return the stages whose file is another one."""
    names = one.keys() & other.keys()
    return {Path(n).stem for n in names if n.startswith("stages/") and one[n] != other[n]}


def test_what_stays_the_same_keeps_its_time(write):
    first = write()
    assert write() == first
    assert len(first) == len(STAGES) + 6


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("synthesis: {resampling: {enabled: true}}", {"synthesis"}),
        ("endfeet_surface_meshes: {fmm_cutoff_radius: 9}", {"endfeet_area"}),
        ("cell_placement: {MetropolisHastings: {beta: 1}}", {"cell_placement"}),
        ("microdomains: {overlap_distribution: {type: other}}", {"microdomains"}),
        ("assign_emodels: {hoc_template: other}", {"assign_emodels"}),
        (
            "tetrahedral_mesh: {refinement_subdividing_steps: 2}",
            {"prepare_tetrahedral", "refine_tetrahedral"},
        ),
        ("seeds: {synthesis: 3}", {"synthesis"}),
        ("cluster: {synthesis: {mem: 9G}}", set()),
        ("common: {seed: 3}", {name for name, stage in STAGES.items() if stage.is_seeded}),
        ("touches: {gap: 1}", set()),
    ],
)
def test_a_change_is_one_for_stages_that_read_it_alone(write, text, stages):
    assert compare(write(), write(text)) == stages


def test_other_versions_are_a_change_for_all(write):
    changed = compare(write(), write(versions={"archngv": "3.4.0"}))
    assert changed == set(STAGES)


def test_files_of_an_atlas_that_change_in_place_are_seen(write, source):
    first = write()
    path = source / "data" / "atlas" / "brain_regions.nrrd"
    os.utime(path, ns=(1, 1))
    second = write()
    assert compare(first, second) == {"cell_placement", "microdomains"}
    (source / "data" / "circuit" / "spatial_index_synapses" / "more").touch()
    assert compare(second, write()) == {"neuroglial_connectivity"}


def test_files_of_folders_are_not_read(write, source):
    (source / "data" / "atlas" / "large.nrrd").mkdir()  # what cannot be read, were it tried
    (source / "data" / "atlas" / "link.nrrd").symlink_to("nowhere")
    opened = []
    plain = Path.read_bytes

    def note(path):
        opened.append(path)
        return plain(path)

    with patch.object(Path, "read_bytes", note):
        write()
    assert [path for path in opened if "data" in path.parts] == []


def test_parameters_are_copied_when_they_differ(write, source, tmp_path):
    first = write()
    (source / "bioname" / "er_data.json").write_text("{}")
    second = write()
    assert [name for name in first if first[name] != second[name]] == ["er_data.json"]
    assert (tmp_path / "circuit" / "build" / "recipe" / "er_data.json").read_text() == "{}"


def test_the_manifest_is_complete_for_archngv_with_absolute_paths(write, source, tmp_path):
    write()
    manifest = yaml.safe_load(Layout(tmp_path / "circuit").manifest.read_text())
    given = yaml.safe_load((source / "bioname" / "MANIFEST.yaml").read_text())["ngv"]
    assert {k: v for k, v in manifest.items() if k != "common"} == {
        k: v for k, v in given.items() if k != "common"
    }
    for key in (*PLACES, "base_circuit_sonata"):
        path = Path(manifest["common"][key])
        assert path.samefile(source / "bioname" / given["common"][key])
        assert path.is_absolute()


def test_what_is_missing_is_told_before_anything_is_written(write, source, tmp_path):
    (source / "bioname" / "er_data.json").unlink()
    shutil.rmtree(source / "data" / "atlas")
    with pytest.raises(InputError) as caught:
        write()
    assert len(str(caught.value).splitlines()) == 4  # the atlas with two files in it, and er_data
    assert not (tmp_path / "circuit").exists()


def test_files_of_stages_that_are_no_more_are_removed(write, tmp_path):
    write()
    stages = Layout(tmp_path / "circuit").recipe / "stages"
    write(until=["cell_placement"])
    assert (stages / "synthesis.yaml").is_file()  # a later run may go on with it


def test_the_interface_hands_on_what_stages_read(source, ngv_python, tmp_path):
    done = PrepareCircuit(
        config=source / "bioname",
        out_dir="circuit",
        seed=7,
        ngv_python=ngv_python,
        any_versions=True,
    ).run(cwd=tmp_path)
    found = done.outputs.get()
    assert {found[f"{name}_seed"] for name in STAGES if STAGES[name].is_seeded} == {7}
    for name in (*TNS_FILES, *PLACES.values(), "manifest", "synthesis_config"):
        assert Path(found[name]).exists()
    assert found["hoc_template"] == "astrocyte.hoc"


def test_what_later_stages_read_may_be_missing_when_they_are_not_asked_for(
    source, ngv_python, tmp_path
):
    shutil.rmtree(source / "data" / "circuit")
    (source / "data" / "atlas" / "vasculature.obj").unlink()
    done = PrepareCircuit(
        config=source / "bioname",
        out_dir="circuit",
        until=["microdomains"],
        ngv_python=ngv_python,
        any_versions=True,
    ).run(cwd=tmp_path)
    assert Path(done.outputs.vasculature).is_file()


def test_until_does_not_leave_later_stages_that_were_made_from_something_else(write, tmp_path):
    write()
    later = Layout(tmp_path / "circuit").find_product("microdomains")
    later.touch()
    write(until=["cell_placement"])  # nothing is another one
    with pytest.raises(InputError, match="has microdomains, computed from another cell_placement"):
        write("common: {seed: 3}", until=["cell_placement"])
    assert later.is_file()
    write("common: {seed: 3}")  # which makes all of them again
