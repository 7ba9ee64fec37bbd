"""Pools of Dask workers on a real Slurm and a real Grid Engine."""

import ipaddress
import json
import re
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cli.test_faults import SHAPE, Driver, errors, finish, write_inputs
from faults.runs import (
    ARGUMENTS,
    HALVES,
    SUBMITS,
    PooledDriver,
    find_listeners,
    find_processes,
    find_workers,
    kill,
    make_chatty,
)
from plugins.conftest import run_client

SCHEDULERS = ("slurm", "sge")
# No run takes this long; one that hangs is an error and not an endless test.
LIMIT_S = 120
# After so many seconds nothing is left of a driver that was killed.
LEFTOVERS_END_S = 60
PLAN = {"images_per_batch": 4, "voxels_per_block": int(np.prod(SHAPE)) // 4}
N_BATCHES, N_BLOCKS = 6, 4

# Each sub-node notes that it has started, and ends when it is allowed to.
HELD = """
import json, os, sys
from pathlib import Path
from nipype import Function, IdentityInterface, JoinNode, MapNode, Node, Workflow
from nipype_blm.plugins import DaskPlugin

def count(n):
    return list(range(n))

def square(x, folder):
    import os, time
    from pathlib import Path
    job_id = os.environ.get("SLURM_JOB_ID") or os.environ["JOB_ID"]
    Path(folder, f"{job_id}-{os.getpid()}-{x}-{time.monotonic_ns()}.started").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.05)
    return x * x

def total(values):
    return sum(values)

def collect(totals, folder):
    import json
    from pathlib import Path
    Path(folder, "totals.json").write_text(json.dumps(totals))

here = os.getcwd()
wf = Workflow("held", base_dir=here)
wf.config["execution"] = {"crashdump_dir": here}
source = Node(IdentityInterface(["n"]), "source", iterables=("n", [2, 3]))
numbers = Node(Function(function=count), "numbers")
squares = MapNode(Function(function=square), "x", "squares")
squares.inputs.folder = here
sums = Node(Function(function=total), "sums")
end = JoinNode(Function(function=collect), "end", joinsource="source", joinfield="totals")
end.inputs.folder = here
wf.connect([
    (source, numbers, [("n", "n")]),
    (numbers, squares, [("out", "x")]),
    (squares, sums, [("out", "values")]),
    (sums, end, [("out", "totals")]),
])
arguments = json.loads(sys.argv[1])
wf.run(plugin=DaskPlugin(arguments | {"n_workers": 2, "job_name": os.environ["LOGNAME"]}))
"""
TOTALS = [0 + 1, 0 + 1 + 4]


@pytest.fixture(params=SCHEDULERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scheduler(name: str, request: pytest.FixtureRequest) -> Any:
    """Slurm or Grid Engine."""
    return request.getfixturevalue(name)


def cancel(scheduler: Any, job_ids: set[str]) -> None:
    """Cancel the jobs that a test has left; they may end meanwhile."""
    for job_id in job_ids:
        with suppress(AssertionError):
            scheduler.cancel(job_id)


# -- Any workflow --------------------------------------------------------------------------


class Held:
    """A run of the workflow above, while both workers are kept busy."""

    def __init__(self, program: Any, wait_until: Callable) -> None:
        self.program = program
        self._wait_until = wait_until

    def starts(self) -> list[tuple[str, int]]:
        """Return the job and the process of each sub-node that was started."""
        files = sorted(
            self.program.folder.glob("*.started"), key=lambda p: int(p.stem.split("-")[-1])
        )
        return [(job, int(pid)) for job, pid, *_ in (file.name.split("-") for file in files)]

    def wait_for_starts(self, n: int) -> None:
        def enough() -> bool:
            return len(self.starts()) >= n or self.program.has_ended

        self._wait_until(enough, LIMIT_S, f"{n} sub-nodes have started")
        assert not self.program.has_ended, self.program.output

    def finish(self) -> list[int]:
        (self.program.folder / "go").touch()
        assert self.program.wait(LIMIT_S) == 0, self.program.output
        totals: list[int] = json.loads((self.program.folder / "totals.json").read_text())
        return totals


@pytest.fixture
def start_held(
    name: str, scheduler: Any, fork_program: Callable, wait_until: Callable
) -> Iterator[Callable[..., Held]]:
    """Function that starts the workflow; returns when two sub-nodes run, in two jobs."""
    programs = []

    def start(**arguments: Any) -> Held:
        given = {k: v for k, v in (ARGUMENTS[name] | arguments).items() if v is not None}
        held = Held(fork_program(HELD, json.dumps(given | {"cluster": name})), wait_until)
        programs.append(held.program)
        held.wait_for_starts(2)
        return held

    yield start
    for program in programs:
        cancel(scheduler, {job.id for job in program.jobs(scheduler)})


@pytest.mark.parametrize(
    ("name", "interface"), [("slurm", None), ("sge", "lo")], ids=["slurm-chosen by us", "sge-lo"]
)
def test_workflows_with_map_and_join_nodes_survive_the_loss_of_a_job_and_of_a_process(
    start_held: Callable[..., Held], scheduler: Any, wait_until: Callable, interface: str | None
) -> None:
    """And nothing listens on all interfaces meanwhile, whoever has chosen one."""
    held = start_held(interface=interface)
    assert_hidden(held, interface)
    (first, _), (second, pid) = held.starts()
    assert first != second
    assert {job.id for job in held.program.jobs(scheduler)} == {first, second}
    scheduler.cancel(first)
    held.wait_for_starts(3)
    third = held.starts()[2][0]
    assert third not in (first, second)  # repeated in a new job
    assert first not in {job.id for job in held.program.jobs(scheduler)}
    psutil.Process(pid).kill()
    held.wait_for_starts(4)
    job, new_pid = held.starts()[3]
    assert (job, new_pid) != (second, pid)
    assert held.finish() == TOTALS
    wait_until(lambda: not held.program.jobs(scheduler), LEFTOVERS_END_S, "no job is left")


def assert_hidden(held: Held, interface: str | None) -> None:
    """Check that neither the driver nor a worker listens on all interfaces."""
    pids = {pid for _, pid in held.starts()}
    assert pids <= {process.pid for process in find_processes(held.program.folder)}
    addresses = {ipaddress.ip_address(ip) for ip in find_listeners(held.program.folder)}
    assert addresses
    assert not any(address.is_unspecified for address in addresses)
    if interface == "lo":
        assert all(address.is_loopback for address in addresses)


@pytest.mark.parametrize("name", ["sge"])
def test_no_job_is_ended_by_its_walltime_while_nodes_of_half_of_it_run(
    name: str, scheduler: Any, fork_program: Callable
) -> None:
    """Each is started once; jobs end in peace and are replaced, and none counts as lost."""
    arguments = ARGUMENTS[name] | {"cluster": name, "retries": 0, "walltime": "00:00:28"}
    program = fork_program(HALVES, json.dumps(arguments), "12", "4")
    assert program.wait(LIMIT_S) == 0, program.output
    starts = [path.stem.split("-")[0] for path in program.folder.glob("*.started")]
    assert sorted(starts) == ["0", "1", "2", "3"]


# -- The commands --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and tables that no test changes."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def local_maps(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Function that returns the maps of a model that was run without a pool."""
    maps: dict[str, dict[str, bytes]] = {}

    def run(model: str = "blm") -> dict[str, bytes]:
        if model not in maps:
            driver = Driver(tmp_path_factory.mktemp("local"), inputs, model)
            driver.configure(**PLAN)
            code, printed = driver.run()
            assert code == 0, printed
            maps[model] = driver.maps()
        return maps[model]

    return run


@pytest.fixture
def make_driver(
    inputs: Path, tmp_path: Path, name: str, scheduler: Any
) -> Iterator[Callable[..., PooledDriver]]:
    """Function that returns the command on a pool; nothing of it is left after the test."""
    drivers = []

    def make(model: str = "blm", **arguments: Any) -> PooledDriver:
        driver = PooledDriver(tmp_path, inputs, name, model)
        driver.begins_anew = False
        driver.configure(**PLAN)
        driver.arguments |= arguments
        drivers.append(driver)
        return driver

    yield make
    kill(find_processes(tmp_path))
    for driver in drivers:
        cancel(scheduler, driver.find_jobs(scheduler))


@pytest.mark.parametrize(
    ("model", "name", "has_banner"),
    [("blm", "slurm", True), ("blm", "sge", True), ("blmm", "slurm", False)],
    ids=["blm-slurm-banner", "blm-sge-banner", "blmm-slurm"],
)
def test_the_maps_are_those_of_a_local_run(
    make_driver: Callable,
    local_maps: Callable,
    scheduler: Any,
    wait_until: Callable,
    tmp_path: Path,
    model: str,
    name: str,
    has_banner: bool,
) -> None:
    """Also at a site that prints more than the number of a job, and its jobs are cancelled."""
    driver = make_driver(model)
    if has_banner:  # runs that are disturbed, below, have none
        driver.environment |= make_chatty(tmp_path / "bin", SUBMITS[name])
    code, printed = driver.run()
    assert code == 0, printed
    assert driver.maps() == local_maps(model)
    assert driver.has("products", N_BATCHES - 1)
    assert driver.has("estimates", N_BLOCKS - 1)
    assert any((driver.work / f"{model}_wf" / "logs" / "workers").iterdir())  # logs of jobs
    wait_until(lambda: not driver.find_jobs(scheduler), 10, "all jobs are cancelled")


@pytest.mark.parametrize(
    ("name", "number"),
    [("slurm", signal.SIGTERM), ("sge", signal.SIGINT)],
    ids=["slurm-SIGTERM", "sge-SIGINT"],
)
def test_a_run_that_loses_workers_is_told_to_end_and_is_killed_leaves_nothing_and_goes_on(
    make_driver: Callable,
    local_maps: Callable,
    scheduler: Any,
    wait_until: Callable,
    number: signal.Signals,
) -> None:
    """One after the other, to one run of a model that is started three times."""
    driver = make_driver()
    with driver.start_until("products") as process:
        assert kill(find_workers(driver.folder))
        assert driver.find_jobs(scheduler)
        driver.wait_for(process, "products", 4)  # which those that took their place have made
        process.send_signal(number)
        code, printed = finish(process)
    assert code == 128 + number
    assert printed.splitlines()[-1] == "Interrupted. The same command goes on from where it was."
    assert "Traceback" not in printed
    wait_until(lambda: not driver.find_jobs(scheduler), LEFTOVERS_END_S, "all jobs are cancelled")
    told = driver.stamp()
    with driver.start() as process:
        # Beforehand: while that is asked, all estimates and what comes of them could be made.
        wait_until(lambda: driver.find_jobs(scheduler), LIMIT_S, "jobs are there")
        jobs = driver.find_jobs(scheduler)
        driver.wait_for(process, "estimates")
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert_kept(told, driver)
    killed = driver.stamp()
    code, printed = driver.run()
    assert code == 0, printed
    assert driver.maps() == local_maps()
    assert_kept(told, driver)
    assert_kept(killed, driver)
    assert jobs
    wait_until(
        lambda: not jobs & driver.find_jobs(scheduler), LEFTOVERS_END_S, "the old jobs have ended"
    )


@pytest.mark.parametrize("name", ["slurm"])
def test_files_that_other_machines_show_late_are_waited_for(
    make_driver: Callable, local_maps: Callable
) -> None:
    """By driver and workers, also in a run that goes on at once after an interruption.

    Which scheduler has started them is all the same to those that wait.
    """
    driver = make_driver()
    driver.show_files_late()
    with driver.start_until("products") as process:
        process.send_signal(signal.SIGINT)
        code, printed = finish(process)
    assert code == 130, printed
    code, printed = driver.run()
    assert code == 0, printed
    assert driver.maps() == local_maps()


def assert_kept(before: dict[Path, int], driver: PooledDriver) -> None:
    """Check that what had been finished was not run again, and that there was something."""
    assert before
    assert before.items() < driver.stamp().items()


# -- Sites that do not print the number of a job ---------------------------------------------


@pytest.mark.parametrize("name", ["slurm"])
def test_an_answer_without_a_number_ends_the_run_and_leaves_no_job(
    make_driver: Callable, scheduler: Any, wait_until: Callable, tmp_path: Path
) -> None:
    driver = make_driver()
    driver.environment |= make_chatty(tmp_path / "bin", "sbatch")
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.write_text(wrapper.read_text().replace('"$@"', '"$@" >/dev/null'))
    words = "sbatch has not said which job it has taken; it said: Welcome to the Stampede2"
    error = assert_words(driver, f"slurm accepts no job: {words}")
    assert "4.5 SU left of 99" in error
    wait_until(lambda: not driver.find_jobs(scheduler), 10, "all jobs are cancelled")


# -- Workers that never come ---------------------------------------------------------------


@contextmanager
def slurm_partition(state: str) -> Iterator[str]:
    """Add a partition of the first node, for one test alone."""
    partition = f"test{uuid.uuid4().hex[:8]}"
    run_client("scontrol", "create", f"partitionname={partition}", "nodes=node1", f"state={state}")
    try:
        yield partition
    finally:
        run_client("scontrol", "delete", f"partitionname={partition}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slurm", ["sbatch", "invalid partition specified: nosuch"]),
        ("sge", ["qsub", 'unknown queue "nosuch"']),
    ],
    ids=SCHEDULERS,
)
def test_a_job_that_is_rejected_ends_the_run_with_what_the_scheduler_said(
    make_driver: Callable, words: list[str]
) -> None:
    assert_words(make_driver(queue="nosuch"), *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [("slurm", "squeue says: 2 x PENDING (PartitionDown)"), ("sge", "qstat says: 2 x hqw")],
    ids=SCHEDULERS,
)
def test_a_queue_that_starts_no_job_ends_the_run_after_stuck_timeout(
    make_driver: Callable, name: str, words: str
) -> None:
    driver = make_driver(stuck_timeout=5)
    if name == "sge":
        driver.arguments["job_extra_directives"] = ["-h"]
        assert_words(driver, words)
        return
    with slurm_partition("down") as driver.arguments["queue"]:
        assert_words(driver, words)


@pytest.mark.parametrize(
    ("name", "directive", "words"),
    [
        ("slurm", "--begin=now+1hour", "squeue: 2 x PENDING (BeginTime)"),
        ("sge", "-a 203001010000", "qstat: 2 x qw"),
    ],
    ids=SCHEDULERS,
)
def test_jobs_that_wait_too_long_end_the_run_after_start_timeout(
    make_driver: Callable, directive: str, words: str
) -> None:
    driver = make_driver(start_timeout=8, job_extra_directives=[directive])
    assert_words(driver, "for 8 s (start_timeout)", words)


@pytest.mark.parametrize(
    ("name", "words"),
    [("slurm", r"Job \d+: exit code 127:0 \(Slurm: FAILED\)"), ("sge", r"Job \d+")],
    ids=SCHEDULERS,
)
def test_jobs_that_end_before_their_workers_report_are_named_with_their_logs(
    make_driver: Callable, words: str
) -> None:
    error = assert_words(make_driver(python="/nonexistent/python"), "/nonexistent/python: No such")
    assert re.search(words, error)


def assert_words(driver: PooledDriver, *words: str) -> str:
    """Check the error of a run that fails, and that none of its jobs is left."""
    code, printed = driver.run()
    assert code == 1, printed
    assert len(errors(printed)) == 1, printed
    error = printed[printed.index("error: ") :]
    for expected in (*words, "The same command goes on from where it was."):
        assert expected in error
    assert "Traceback" not in printed
    assert driver.maps() == {}
    return error


# -- Settings of the user ------------------------------------------------------------------

# That of BLM-py's README, for this machine.
JOBQUEUE = """
jobqueue:
  slurm:
    name: dask-worker

    # Dask worker options
    cores: 1                 # Total number of cores per job
    memory: "1GB"                # Total amount of memory per job
    processes: 1                # Number of Python processes per job

    interface: lo             # Network interface to use like eth0 or ib0
    death-timeout: 60           # Number of seconds to wait if a worker can not find a scheduler
    local-directory: "{folder}/local"       # Location of fast local storage
    log-directory: "{folder}/logs"
    silence_logs: True

    # SLURM resource manager options
    shebang: "#!/usr/bin/bash"
    queue: {queue}
    project: null
    walltime: '01:00:00'
    job-cpu: null
    job-mem: null
    log-directory: null

    # Scheduler options
    scheduler-options: {{'dashboard_address': ':{port}'}}
"""


@pytest.mark.parametrize("name", ["slurm"])
def test_the_jobqueue_file_of_blm_py_is_used_and_its_dashboard_is_on_localhost(
    make_driver: Callable,
    local_maps: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "dask").mkdir()
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    driver = make_driver()
    driver.begins_anew = True  # and reads that file
    driver.configure(numNodes=1)
    driver.arguments.clear()
    with slurm_partition("up") as queue:
        (tmp_path / "dask" / "jobqueue.yaml").write_text(
            JOBQUEUE.format(folder=tmp_path, queue=queue, port=port)
        )
        with driver.start_until("products") as process:
            jobs = run_client("squeue", "--noheader", f"--partition={queue}", "--format=%j %l")
            assert set(jobs.splitlines()) == {"dask-worker 1:00:00"}
            assert find_hosts(port) == {"127.0.0.1"}
            code, printed = finish(process)
    assert code == 0, printed
    assert driver.maps() == local_maps()
    assert (tmp_path / "local" / "dask-scratch-space").is_dir()


def find_hosts(port: int) -> set[str]:
    """Return the addresses at which somebody listens to a port."""
    return {
        connection.laddr.ip
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
