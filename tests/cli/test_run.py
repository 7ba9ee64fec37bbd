"""The workflow of a configuration runs on this machine; its errors come back as sentences."""

import os

import pytest

from nipype_blm.cli.run import count_cores, find_input_error, run_workflow
from nipype_blm.errors import InputError
from nipype_blm.model.config import parse_config


def test_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert count_cores() == len(before)


@pytest.mark.parametrize("threads", [1, 2, 100])
def test_a_workflow_gives_the_maps_of_its_configuration(study, threads):
    config = parse_config(study.fields | {"numNodes": threads}, study.folder)
    run_workflow(config, "some_wf")
    assert (study.outdir / "blm_vox_conT.nii").is_file()
    assert (study.outdir / "work" / "some_wf").is_dir()


def test_problems_are_found_in_the_text_of_a_failed_node(study):
    path = study.folder / "s07.nii"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Exception, match="products") as error:
        run_workflow(parse_config(study.fields, study.folder), "some_wf")
    assert not isinstance(error.value, InputError)
    [problem] = find_input_error(error.value)
    assert "s07.nii is damaged" in problem
    assert problem.endswith("restore it and run again.")


def test_any_other_error_holds_no_problem_of_the_input():
    assert find_input_error(RuntimeError("InputError: of something else")) == []
