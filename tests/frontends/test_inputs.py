"""inputs.yml is a complete configuration with versions."""

import pytest
import yaml

from nipype_blm import __version__
from nipype_blm.frontends.blm import check, to_yaml
from nipype_blm.frontends.record import is_written_for, write_inputs
from nipype_blm.io.versions import read_versions
from nipype_blm.io.yamlfile import read_yaml


def ask(tmp_path, **changes):
    fields = {
        "Y_files": "Y.txt",
        "X": "Größe: a, b.csv",
        "outdir": "out",
        "MAXMEM": "2**30",
        "Missingness": {"MinPercent": "1/3", "Masking": "m.nii"},
        "contrasts": [
            {"c1": {"name": "yes: #1", "vector": "[[1 0] [0 1/3]]"}},
            {"c2": {"name": "no", "vector": [1, 0]}},
            {"c3": {"name": "1e3", "vector": [0, -1]}},
        ],
    } | changes
    return check(fields, tmp_path).fields


def make_record(tmp_path, **changes):
    return to_yaml(ask(tmp_path, **changes))


def test_the_same_configuration_is_read_from_inputs_yml_wherever_it_lies(tmp_path):
    config = ask(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write_inputs(folder / "inputs.yml", to_yaml(config))
    assert check(read_yaml(path), path.parent) == (config, [])


def test_inputs_yml_holds_the_versions_of_everything_that_computes(tmp_path):
    path = write_inputs(tmp_path / "inputs.yml", make_record(tmp_path))
    versions = yaml.safe_load(path.read_text())["versions"]
    assert versions == read_versions()
    assert versions["nipype_blm"] == __version__
    assert {"python", "nipype", "nibabel", "numpy", "scipy", "numba"} <= set(versions)


def test_inputs_yml_of_an_unchanged_configuration_is_not_written_again(tmp_path):
    path = write_inputs(tmp_path / "inputs.yml", make_record(tmp_path))
    inode = path.stat().st_ino
    write_inputs(path, make_record(tmp_path))
    assert path.stat().st_ino == inode


RESOURCES = [
    *({}, {"MAXMEM": "2**31"}, {"numNodes": 7}, {"clusterType": "slurm"}, {"work_dir": "w"}),
    *({"keep": "all"}, {"overwrite": True}, {"allow_empty": True}, {"sim": True}),
]


@pytest.mark.parametrize("changes", RESOURCES, ids=str)
def test_a_configuration_is_recognised_whatever_it_was_run_with(tmp_path, changes):
    path = write_inputs(tmp_path / "inputs.yml", make_record(tmp_path))
    assert is_written_for(path, make_record(tmp_path, **changes))


CHANGES = {
    "Y_files": "Y2.txt",
    "X": "X2.csv",
    "outdir": "out2",
    "Missingness": {"MinPercent": "1/3", "Masking": "m2.nii"},
    "contrasts": [{"c1": {"name": "no", "vector": [1, 0]}}],
    "analysis_mask": "a.nii",
    "data_mask_files": "masks.txt",
    "data_mask_thresh": 0.5,
    "zero_is_missing": False,
    "OutputCovB": False,
    "minlog": -100,
    "two_sided": True,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_of_what_the_maps_depend_on_is_recognised(tmp_path, field):
    before, after = make_record(tmp_path), make_record(tmp_path, **{field: CHANGES[field]})
    assert before != after
    path = write_inputs(tmp_path / "inputs.yml", before)
    assert not is_written_for(path, after)


@pytest.mark.parametrize("text", ["", "[1, 2]", "X: [1", "text"])
def test_a_file_that_is_no_configuration_is_that_of_none(tmp_path, text):
    path = tmp_path / "inputs.yml"
    assert not is_written_for(path, make_record(tmp_path))
    path.write_text(text)
    assert not is_written_for(path, make_record(tmp_path))


def test_what_was_asked_for_without_a_record_has_no_file_to_be_compared(tmp_path):
    path = write_inputs(tmp_path / "inputs.yml", make_record(tmp_path))
    assert is_written_for(path, {})
    assert is_written_for(tmp_path / "no.yml", {})
