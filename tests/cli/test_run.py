"""The workflow of a configuration runs on this machine; its errors come back as sentences."""

import os

import numpy as np
import pytest

from nipype_blm.cli.plugins import choose_runner, count_cores
from nipype_blm.cli.run import find_input_error, run_workflow
from nipype_blm.errors import InputError
from nipype_blm.model.config import parse_config
from nipype_blm.stages.plan import prepare_run


def run(config, study):
    runner = choose_runner(config, prepare_run(config).plan, None, None)
    run_workflow(config, study.folder / "blm.yml", runner, 1)


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
    run(config, study)
    _, beta, _ = study.fit()
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)
    assert (study.outdir / "work" / "blm_wf").is_dir()


def test_problems_are_found_in_the_text_of_a_failed_node(study):
    path = study.compress_image()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Exception, match="products") as error:
        run(parse_config(study.fields, study.folder), study)
    assert not isinstance(error.value, InputError)
    [problem] = find_input_error(error.value)
    assert "s07.nii.gz is damaged" in problem
    assert problem.endswith("restore it and run again.")


def test_any_other_error_holds_no_problem_of_the_input():
    assert find_input_error(RuntimeError("InputError: of something else")) == []
