"""TBSS in Nipype: the same images, whoever runs the nodes and whatever is lost."""

import pytest
from fa_cohort import make_cohort
from tbss_runs import LIMIT_S, finish_tbss, lose_a_worker, read_images, start_tbss

LOCAL = {"cluster": "local", "n_procs": 2, "memory_gb": 4}
PLUGINS = {"MultiProc": {"n_procs": 2}, "Dask": LOCAL}
N = 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), N, 6.0, seed=6)


@pytest.fixture
def run(cohort, start_program):
    """Function that runs the workflow and returns its images."""

    def run_one(plugin, arguments, target="template"):
        return finish_tbss(start_tbss(start_program, cohort, plugin, arguments, target))

    return run_one


def assert_same(found, known):
    assert sorted(found) == sorted(known)
    assert [name for name in known if found[name] != known[name]] == []


def test_images_are_the_same_bytes_whoever_runs_the_nodes(run):
    known = run("Linear", {})
    assert len([name for name in known if name.startswith("skeletonised/")]) == 2 * N
    assert "stats/all_FA_skeletonised.nii.gz" in known
    for plugin, arguments in PLUGINS.items():
        assert_same(run(plugin, arguments), known)


def test_with_the_most_representative_image_they_are_the_same_too(run):
    assert_same(run("Dask", LOCAL, "most_representative"), run("Linear", {}, "most_representative"))


@pytest.mark.parametrize("target", ["template", "most_representative"])
def test_workers_that_are_killed_while_registering_change_nothing(
    run, cohort, start_program, wait_until, target
):
    program = start_tbss(start_program, cohort, "Dask", LOCAL, target)
    lose_a_worker(program, wait_until)
    assert_same(finish_tbss(program), run("Linear", {}, target))


def test_a_run_that_is_killed_goes_on(run, cohort, start_program, wait_until):
    """What is registered is not registered again."""
    program = start_tbss(start_program, cohort, "Linear", {})
    records = program.folder / "out" / "work" / "standard"
    warps = program.folder / "out" / "warps"

    def find_records():
        return [path.stem for path in records.glob("*.json")]

    def find_times():
        return {path.name: path.stat().st_mtime_ns for path in warps.glob("*.nii.gz")}

    wait_until(lambda: find_records() or program.has_ended, 120, "an image is registered")
    program.kill()
    noted = [f"{name}_warp.nii.gz" for name in find_records()]
    before = {name: time for name, time in find_times().items() if name in noted}
    assert 0 < len(before) < N
    again = start_tbss(start_program, cohort, "MultiProc", {"n_procs": 2}, folder=program.folder)
    assert again.wait(LIMIT_S) == 0, again.output
    assert before.items() < find_times().items()
    assert_same(read_images(program.folder / "out"), run("Linear", {}))
