"""Blocks on a pool of a real Slurm, whose workers are lost, and in nodes by Nipype's own plugin."""

from blockmap_runs import (
    LIMIT_S,
    N_BLOCKS,
    count_calls,
    describe,
    read_results,
    start_workflow,
    write_volume,
)
from faults.runs import ARGUMENTS, find_workers, kill

from nipype_blm.interfaces import BlockMap


def test_the_results_are_those_of_a_local_run_although_workers_are_killed(
    slurm, tmp_path, fork_program, wait_until
):
    write_volume(tmp_path)
    slow = {"arguments": {"folder": str(tmp_path), "seconds": 0.3}}
    arguments = ARGUMENTS["slurm"] | {"cluster": "slurm", "n_workers": 2, "memory": "2GB"}
    arguments |= {"job_name": "blockmap-test"}
    program = start_workflow(fork_program, tmp_path, "Dask", arguments, mem_gb=0.5, **slow)
    wait_until(
        lambda: len(count_calls(tmp_path)) > 4 or program.has_ended, LIMIT_S, "blocks have started"
    )
    assert kill(find_workers(tmp_path)), program.output
    assert program.wait(LIMIT_S) == 0, program.output
    calls = count_calls(tmp_path)
    assert len(calls) == N_BLOCKS
    assert sum(calls.values()) <= N_BLOCKS + 2  # what two workers were at
    found = read_results(tmp_path / "out")
    BlockMap(**describe(tmp_path, **slow), out_dir=tmp_path / "known").run()
    assert found == read_results(tmp_path / "known")
    wait_until(
        lambda: all(job.name != "blockmap-test" for job in slurm.jobs()), LIMIT_S, "no job is left"
    )
