"""The workflow over blocks: the same bytes, whoever runs the nodes and whatever is lost."""

import numpy as np
import pytest
import zarr
from blockmap_runs import (
    LIMIT_S,
    N_BLOCKS,
    count_calls,
    describe,
    read_results,
    start_workflow,
    write_volume,
)

from nipype_blm.interfaces import BlockMap
from nipype_blm.workflows import init_blockmap_wf


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The results of one process, by name."""
    folder = tmp_path_factory.mktemp("known")
    values = write_volume(folder)
    BlockMap(**describe(folder), out_dir=folder / "out").run()
    found = zarr.open_array(folder / "out" / "inverse.zarr", path="0")
    np.testing.assert_array_equal(found[:], 255 - values)
    return read_results(folder / "out")


@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [
        ("Linear", {}),
        ("MultiProc", {"n_procs": 2}),
        ("Dask", {"cluster": "local", "n_procs": 2, "memory_gb": 4}),
    ],
)
def test_results_are_the_same_bytes_whoever_runs_the_nodes(
    known, tmp_path, start_program, plugin, arguments
):
    write_volume(tmp_path)
    program = start_workflow(start_program, tmp_path, plugin, arguments)
    assert program.wait(LIMIT_S) == 0, program.output
    assert read_results(tmp_path / "out") == known
    assert set(count_calls(tmp_path).values()) == {1}


def test_a_workflow_that_is_killed_goes_on(known, tmp_path, start_program, wait_until):
    write_volume(tmp_path)
    slow = {"arguments": {"folder": str(tmp_path), "seconds": 0.2}}
    program = start_workflow(start_program, tmp_path, "Linear", {}, **slow)
    wait_until(lambda: len(count_calls(tmp_path)) > 4, LIMIT_S, "some blocks have started")
    program.kill()
    program = start_workflow(start_program, tmp_path, "Linear", {}, **slow)
    assert program.wait(LIMIT_S) == 0, program.output
    calls = count_calls(tmp_path)
    assert len(calls) == N_BLOCKS
    assert sum(calls.values()) <= N_BLOCKS + 1
    assert read_results(tmp_path / "out") == known
    # All is there: nothing is called again, and the workflow ends as it did.
    program = start_workflow(start_program, tmp_path, "Linear", {}, **slow)
    assert program.wait(LIMIT_S) == 0, program.output
    assert count_calls(tmp_path) == calls
    assert read_results(tmp_path / "out") == known


def test_outputs_of_the_workflow_are_those_of_the_node(tmp_path):
    write_volume(tmp_path)
    fields = describe(tmp_path)
    workflow = init_blockmap_wf(out_dir=tmp_path / "out", **fields)
    workflow.base_dir = tmp_path
    graph = workflow.run()
    [last] = [node for node in graph.nodes if node.name == "assemble"]
    found = last.result.outputs
    node = BlockMap(**fields, out_dir=tmp_path / "other").run().outputs
    assert found.keys == node.keys
    assert len(found.keys) == N_BLOCKS
    assert found.skipped == []
    assert set(found.outputs) == {"inverse"}
    assert found.table == str(tmp_path / "out" / "table.tsv")


def test_faults_are_told_by_the_first_node(tmp_path):
    write_volume(tmp_path)
    node = BlockMap(**describe(tmp_path, ranges={"y": [0, 21]}), out_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="range 0 to 21 along y was asked for, and em has 0 to 20"):
        node.run()
    assert not (tmp_path / "out").exists()
