"""Every way in which a circuit can be asked for, and what cannot be asked."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nipype_blm.errors import InputError
from nipype_blm.ngv.recipe.reading import Recipe, find_missing_files, read_recipe
from nipype_blm.ngv.stages import STAGES, TNS_FILES


@pytest.fixture
def bioname(functional_circuit: Path, tmp_path: Path) -> Path:
    """A folder as ArchNGV's is, which a test may change; data are not beside it."""
    return Path(shutil.copytree(functional_circuit / "bioname", tmp_path / "bioname"))


@pytest.fixture
def manifest(bioname: Path) -> dict[str, Any]:
    return yaml.safe_load((bioname / "MANIFEST.yaml").read_text())["ngv"]


def write(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text)
    return path


def ask(bioname: Path, text: str = "", **options: Any) -> Recipe:
    """Return the recipe of a file with that folder, and more."""
    path = write(bioname.parent / "circuit.yaml", f"bioname: bioname\n{text}")
    return read_recipe(path, **options)


def refuse(bioname: Path, text: str, message: str) -> str:
    with pytest.raises(InputError, match=message) as caught:
        ask(bioname, text)
    return str(caught.value)


def test_every_way_to_name_a_recipe_gives_the_same(bioname, manifest, monkeypatch) -> None:
    expected = read_recipe(bioname)
    assert list(expected.stages) == list(STAGES)
    assert expected.common["atlas"] == str(bioname.parent / "data/atlas")
    plain = write(bioname / "plain.yaml", manifest)
    monkeypatch.chdir(bioname.parent)
    monkeypatch.setenv("HOME", str(bioname.parent))
    named = write(bioname.parent / "named.yaml", {"bioname": "bioname"})
    below = write(bioname.parent / "below.yaml", {"ngv": {"bioname": "~/bioname"}})
    ways = [bioname.parent, bioname / "MANIFEST.yaml", plain, named, below]
    for way in [*ways, "bioname", "bioname/../bioname/plain.yaml", "~/named.yaml"]:
        found = read_recipe(way)
        assert found.bioname.resolve() == bioname.resolve()
        for name in ("stages", "seeds", "cluster", "touches"):
            assert getattr(found, name) == getattr(expected, name)
        assert {n: path.resolve() for n, path in found.files.items()} == {
            n: bioname / f"{n}.json" for n in TNS_FILES
        }
        others = {key: found.manifest[key] for key in found.manifest if key != "common"}
        assert others == {key: expected.manifest[key] for key in others}


def test_a_manifest_may_have_the_short_suffix(bioname) -> None:
    (bioname / "MANIFEST.yaml").rename(bioname / "MANIFEST.yml")
    assert read_recipe(bioname).common["region"] == "H"


def test_a_file_has_the_last_word_over_the_manifest_that_it_names(bioname, manifest) -> None:
    found = ask(bioname, "common: {region: L5, mask:}\nsynthesis: {resampling: {enabled: true}}\n")
    assert found.common["region"] == "L5"
    assert "mask" not in found.common
    assert found.common["atlas"] == str(bioname.parent / "data/atlas")  # relative to that manifest
    assert found.manifest["synthesis"]["resampling"] == {"enabled": True, "linear-density": 1.0}
    assert (
        found.manifest["synthesis"]["perimeter_distribution"]
        == manifest["synthesis"]["perimeter_distribution"]
    )


def test_an_empty_value_takes_a_key_away(bioname) -> None:
    assert "region" not in ask(bioname, "common: {region: }").common


def test_other_files_are_relative_to_the_file_that_names_them(bioname, tmp_path) -> None:
    found = ask(bioname, "tns_parameters: own/fast.json\nngv_python: env/bin/python\ner_data:\n")
    assert found.files["tns_parameters"] == tmp_path / "own" / "fast.json"
    assert found.files["er_data"] == bioname / "er_data.json"
    assert found.ngv_python == tmp_path / "env" / "bin" / "python"
    assert ask(bioname, "ngv_python:\n").ngv_python is None


def test_numbers_may_be_written_as_yaml_takes_them_for_text(bioname) -> None:
    # Of YAML 1.1, which needs a point and a sign in 1.0e-07.
    found = ask(bioname, "microdomains: {overlap_distribution: {values: ['0.1', 1e-07]}}\n")
    assert found.manifest["microdomains"]["overlap_distribution"]["values"] == [0.1, 1e-07]
    written = yaml.safe_load(yaml.safe_dump(found.select("microdomains")))
    assert written["microdomains"]["overlap_distribution"]["values"] == [0.1, 1e-07]


def test_marks_and_line_ends_of_windows_are_no_part_of_a_manifest(bioname) -> None:
    expected = read_recipe(bioname)
    text = (bioname / "MANIFEST.yaml").read_text()
    (bioname / "MANIFEST.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_recipe(bioname) == expected


def test_keys_that_only_archngv_knows_stay_as_they_are(bioname) -> None:
    found = read_recipe(bioname)
    assert found.manifest["microdomains"]["overlap_distribution"]["type"] == "normal"
    assert found.manifest["tetrahedral_mesh"]["tet_mesh_refinement_steps"] == 0
    assert found.common["parallel"] is True


def test_all_that_is_missing_is_told_in_one_message(functional_circuit) -> None:
    exemplar = functional_circuit.parents[1] / "archngv" / "app" / "exemplar" / "bioname"
    with pytest.raises(InputError) as caught:
        read_recipe(exemplar)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        f"{exemplar}/MANIFEST.yaml: tetrahedral_mesh.surface_mesh_subdivision_steps, "
        "common.base_spatial_synapse_index_dir are missing, which the stages"
    )
    assert read_recipe(exemplar, until=["gliovascular_connectivity"]).stages


def test_only_sections_of_stages_that_are_asked_for_are_needed(bioname, manifest) -> None:
    few = {"common": {"atlas": "a", "vasculature": "v"}}
    few["cell_placement"] = manifest["cell_placement"]
    write(bioname / "MANIFEST.yaml", few)
    found = read_recipe(bioname, until=["cell-placement"])
    assert set(found.manifest) == {"common", "cell_placement"}
    with pytest.raises(InputError, match=r"assign_emodels.hoc_template is missing"):
        read_recipe(bioname, until=["finalize_astrocytes"])


def test_parameters_of_perimeters_are_needed_where_these_are_computed(bioname, manifest) -> None:
    manifest["synthesis"] = {"perimeter_distribution": {"enabled": True}}
    write(bioname / "MANIFEST.yaml", manifest)
    names = "slope.*intercept.*standard_deviation.*window are missing"
    with pytest.raises(InputError, match=names):
        read_recipe(bioname)
    manifest["synthesis"]["perimeter_distribution"]["enabled"] = False
    write(bioname / "MANIFEST.yaml", manifest)
    assert read_recipe(bioname).manifest["synthesis"]["perimeter_distribution"] == {
        "enabled": False
    }


def test_faults_of_all_sections_are_told_at_once_with_the_file_that_each_is_in(bioname) -> None:
    text = (
        "cell_placement: {soma_radius: 3, MetropolisHastings: {ntrials: 0}}\n"
        "microdomains: {overlap_distribution: {values: [much, 1e-7]}}\n"
    )
    lines = refuse(bioname, text, "ntrials").splitlines()
    own = f"{bioname.parent}/circuit.yaml: "
    assert [line.partition(" was given")[0] for line in lines] == [
        f"{own}cell_placement.soma_radius: 3",
        f"{own}cell_placement.MetropolisHastings.ntrials: 0",
        f"{own}microdomains.overlap_distribution.values.0: 'much'",
    ]
    write(bioname / "MANIFEST.yaml", {"common": {"seed": -1}})
    with pytest.raises(InputError, match=rf"{bioname}/MANIFEST.yaml: common.seed: -1 was given"):
        read_recipe(bioname / "MANIFEST.yaml")


@pytest.mark.parametrize("value", ["ON", "yes", "No", "true"])
def test_a_name_that_yaml_takes_for_a_truth_value_is_to_be_quoted(bioname, value) -> None:
    message = "common.region: (True|False) was given; it is a truth value in YAML.*quotes"
    refuse(bioname, f"common: {{region: {value}}}", message)
    assert ask(bioname, f"common: {{region: '{value}'}}").common["region"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common: [a]", r"common: \['a'\] was given; it should be keys with values"),
        ("synthesis: text", "synthesis: 'text' was given; it should be keys with values"),
        ("common: {region: [L1, L2]}", r"common.region: \['L1', 'L2'\] .* should be text"),
        ("common: {atlas: {a: b}}", "common.atlas: .* should be text"),
        ("common: {seed: yes}", "common.seed: True was given; it is a truth value"),
        ("common: {seed: 4294967296}", "common.seed: 4294967296 was given; it should be less than"),
        ("common: {atlas: ~nobody_of_this_name/x}", "the path ~nobody_of_this_name/x: "),
        ("common: {node_population_name: {astrocyte: x}}", "node_population_name cannot be given"),
        ("bioname: x", "the field 'bioname' is given twice"),
        ("sythesis: {a: 1}", r"has sythesis, which nobody reads; did you mean synthesis\?"),
        ("common:\n\tregion: a", r"is not valid YAML: .*'\\t'.* \(line 3, column 1\)"),
        ("until: synthesi", r"until synthesi is no stage; did you mean synthesis\?"),
        ("until: {a: 1}", "until .* is no stage"),
        ("seeds: [1]", r"seeds: \[1\] was given; expected numbers by stage"),
        ("seeds: {ngv_config: 3}", "seeds: ngv_config draws no numbers"),
        ("seeds: {synthesi: 3}", r"seeds: synthesi is no stage; did you mean synthesis\?"),
        ("seeds: {synthesis: -1}", "seeds: synthesis: -1 was given; expected a whole number"),
        ("seeds: {synthesis: yes}", "seeds: synthesis: True was given"),
        ("seeds: {synthesis: 1.5}", "seeds: synthesis: 1.5 was given"),
        ("seeds: {synthesis: }", "seeds: synthesis: None was given"),
        ("touches: [1]", r"touches: \[1\] was given; it should be keys with values"),
        ("touches: {gapp: 1}", "touches.gapp: 1 was given; it is read by nobody"),
        ("touches: {spacing: 0}", "touches.spacing: 0 was given; it should be greater than 0"),
        ("cluster: [1]", r"cluster: \[1\] was given; expected resources by stage"),
        ("cluster: {synthesis: 3}", "cluster: {'synthesis': 3} was given; expected resources"),
        ("cluster: {synthesi: {time: 1}}", "cluster: synthesi is no stage"),
        ("cluster: not_here.yaml", "cluster .*not_here.yaml cannot be read"),
    ],
)
def test_what_cannot_be_used_is_told(bioname, text, message) -> None:
    refuse(bioname, text, message)


@pytest.mark.parametrize("text", ["common: [a]", "common: text"])
def test_a_seed_that_is_given_hides_no_fault(bioname, text) -> None:
    with pytest.raises(InputError, match=r"common: .* was given"):
        ask(bioname, text, seed=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds None; expected sections"),
        ("- a\n- b\n", r"holds \['a', 'b'\]; expected sections"),
        ("text", "holds 'text'; expected sections"),
        ("a: 1\n", "has none of bioname, common, "),
        ("bioname:\n", "has none of bioname, common, "),
        ("ngv:\n", "has none of bioname, common, "),
        ("bioname: nowhere\n", r"nowhere is no folder with a MANIFEST.yaml"),
        ("bioname: .\n", r"has no MANIFEST.yaml; give ArchNGV's bioname folder"),
        ("common: {a: 1, a: 2}\n", r"the field 'a' is given twice \(line 1, column 16\)"),
        ("a: !!python/object:os.system x\n", "has no meaning here"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path, content, message) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(write(tmp_path / "circuit.yaml", content))


def test_a_recipe_that_is_not_there_is_told_with_how_to_get_one(tmp_path) -> None:
    with pytest.raises(InputError, match=r"is not there; .*`nipype-blm ngv example FOLDER`"):
        read_recipe(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no MANIFEST.yaml"):
        read_recipe(tmp_path)
    with pytest.raises(InputError, match="CONFIG ~nobody_of_this_name"):
        read_recipe("~nobody_of_this_name/x")


def test_stages_are_what_the_caller_asks_for_or_else_what_the_file_does(bioname) -> None:
    few = ["sonata_vasculature", "cell_placement"]
    assert ask(bioname, "until: cell-placement").stages == few
    assert ask(bioname, "until: [cell-placement, sonata_vasculature]").stages == few
    assert ask(bioname, "until: synthesis", until=["cell_placement"]).stages == few
    for everything in ("until: all", "until: []", "until:"):
        assert ask(bioname, everything).stages == list(STAGES)


def test_each_stage_that_draws_has_its_seed(bioname) -> None:
    drawing = {name for name, stage in STAGES.items() if stage.is_seeded}
    assert ask(bioname).seeds == dict.fromkeys(drawing, 0)
    assert ask(bioname, "common: {seed: 5}").seeds == dict.fromkeys(drawing, 5)
    found = ask(bioname, "common: {seed: 5}\nseeds: {endfeet-area: 7}", seed=6)
    assert found.seeds == dict.fromkeys(drawing, 6) | {"endfeet_area": 7}
    assert found.common["seed"] == 6


def spread_as_snakefile(entries: dict[str, Any], stage: str) -> dict[str, Any]:
    """What ArchNGV's Snakefile takes for a stage: defaults fill in keys that are missing."""
    default = entries.get("__default__", {})
    entry = dict(entries.get(stage, default))
    for key in default:
        entry.setdefault(key, default[key])
    return entry


@pytest.mark.parametrize("kind", ["inline", "path", "beside"])
def test_resources_are_found_where_they_are_given(bioname, kind) -> None:
    entries = {
        "__default__": {"time": "00:05:00", "partition": "prod", "tasks": 5},
        "synthesis": {"time": "00:20:00", "cpus-per-task": 2},
        "glial_gap_junctions": None,
    }
    if kind == "inline":
        found = ask(bioname, yaml.safe_dump({"cluster": entries}))
    elif kind == "path":
        write(bioname.parent / "other.yaml", entries)
        found = ask(bioname, "cluster: other.yaml")
    else:
        write(bioname / "cluster.yaml", entries | {"connectome": {"time": "1"}})  # of neurons
        found = ask(bioname)
    entries["glial_gap_junctions"] = {}
    names = ["__default__", *STAGES]
    assert found.cluster == {name: spread_as_snakefile(entries, name) for name in names}


def test_without_defaults_only_named_stages_have_resources(bioname) -> None:
    assert ask(bioname, "cluster: {endfeet-area: {mem: 8G}}").cluster == {
        "endfeet_area": {"mem": "8G"}
    }
    (bioname / "cluster.yaml").unlink()
    assert ask(bioname).cluster == {}


def test_a_fault_in_cluster_yaml_is_told_with_its_name(bioname) -> None:
    write(bioname / "cluster.yaml", "- a\n")
    refuse(bioname, "", re.escape(f"{bioname}/cluster.yaml: cluster: ['a'] was given"))


def test_files_that_stages_read_are_missed_only_by_these(bioname, functional_circuit) -> None:
    assert len(find_missing_files(read_recipe(bioname))) == 7  # there are no data beside it
    shutil.copytree(functional_circuit / "data", bioname.parent / "data")
    assert find_missing_files(read_recipe(bioname)) == []
    (bioname / "er_data.json").unlink()
    (bioname.parent / "data" / "atlas" / "vasculature.obj").unlink()
    (bioname.parent / "data" / "atlas" / "vasculature.obj").mkdir()
    problems = find_missing_files(read_recipe(bioname))
    assert len(problems) == 2
    assert "vasculature_mesh" in problems[0]
    assert "vasculature.obj is no file" in problems[0]
    assert "er_data.json is not there; paths are relative to" in problems[1]
    assert find_missing_files(read_recipe(bioname, until=["gliovascular_connectivity"])) == []


def test_a_stage_depends_on_its_part_of_a_manifest_alone(bioname) -> None:
    one = ask(bioname)
    other = ask(bioname, "endfeet_surface_meshes: {fmm_cutoff_radius: 9}\ncommon: {atlas: x}\n")
    changed = {name for name in STAGES if one.select(name) != other.select(name)}
    assert changed == {"endfeet_area", "cell_placement", "microdomains"}
