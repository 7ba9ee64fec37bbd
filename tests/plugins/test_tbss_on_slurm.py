"""TBSS on a pool of a real Slurm, one of whose workers is lost."""

import pytest
from fa_cohort import make_cohort
from faults.runs import ARGUMENTS
from tbss_runs import LIMIT_S, finish_tbss, lose_a_worker, start_tbss


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), 4, 6.0, seed=6)


def test_the_images_are_those_of_a_local_run_although_workers_are_killed(
    slurm, cohort, fork_program, wait_until
):
    arguments = ARGUMENTS["slurm"] | {"cluster": "slurm", "n_workers": 2, "memory": "2GB"}
    program = start_tbss(fork_program, cohort, "Dask", arguments | {"job_name": "tbss-test"})
    lose_a_worker(program, wait_until)
    found = finish_tbss(program)
    known = finish_tbss(start_tbss(fork_program, cohort, "Linear", {}))
    assert sorted(found) == sorted(known)
    assert [name for name in known if found[name] != known[name]] == []
    wait_until(
        lambda: all(job.name != "tbss-test" for job in slurm.jobs()), LIMIT_S, "no job is left"
    )
