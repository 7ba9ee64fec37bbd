"""The Dask plugin on pools of this machine, and on ready clusters of Dask."""

import http.client
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster, Security
from nipype import Function, IdentityInterface, JoinNode, MapNode, Node, Workflow
from nipype.pipeline.engine.utils import load_resultfile

from nipype_blm.errors import InputError
from nipype_blm.plugins import DaskPlugin, register
from nipype_blm.tasks import batch, disks, pools
from nipype_blm.tasks.task import PoolError

# What a test waits for takes seconds; this is for a machine that is busy.
TIME_LIMIT = 180

# -- What nodes do; Nipype runs these functions from their source ---------------------------


def same(x):
    return x


def add(x, y):
    return x + y


def total(xs):
    return sum(xs)


def double(xs):
    return [2 * x for x in xs]


def find_pid(x):
    import os

    return os.getpid()


def write_then_read(x):
    """Use the working directory, which belongs to the process, for a while."""
    import time
    from pathlib import Path

    folder = Path.cwd()
    Path("number.txt").write_text(str(x))
    time.sleep(0.3)
    assert folder == Path.cwd()
    return int(Path("number.txt").read_text())


def fail(x):
    raise ValueError("no such voxel")


def stumble(x, folder):
    """Fail at the first start, or at any, in the way that `x` names."""
    import errno
    import os
    import uuid
    from pathlib import Path

    from nipype_blm.errors import InputError

    way, when, name = x.split("_")
    n_starts = len(list(Path(folder).glob(f"{x}-*")))
    Path(folder, f"{x}-{uuid.uuid4().hex}").touch()
    if n_starts and when == "once":
        return x
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    if way == "text":
        raise InputError(f"line 3 says: {error}")
    try:
        raise error
    except OSError:
        if way == "plain":
            raise
        if way == "cause":
            raise InputError("an image cannot be read") from error
        raise RuntimeError("while something was handled")  # noqa: B904


def leave(x):
    import sys

    sys.exit(3)


def note(x, folder):
    """Leave a mark for each start."""
    import uuid
    from pathlib import Path

    Path(folder, f"{x}-{uuid.uuid4().hex}").touch()
    return x


def wait(x, folder):
    """Wait until there is a file `go`."""
    import time
    import uuid
    from pathlib import Path

    Path(folder, f"{x}-{uuid.uuid4().hex}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.05)
    return x


def kill_worker_once(x, folder):
    import os
    import signal
    import time
    import uuid
    from pathlib import Path

    Path(folder, f"{x}-{uuid.uuid4().hex}").touch()
    if len(list(Path(folder).glob(f"{x}-*"))) == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return x + 1


def kill_job_once(x, folder):
    import os
    import signal
    import time
    import uuid
    from pathlib import Path

    Path(folder, f"{x}-{uuid.uuid4().hex}").touch()
    if len(list(Path(folder).glob(f"{x}-*"))) == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)  # the worker ends when it finds itself without its parent
    return x + 1


def kill_worker(x):
    import os
    import signal
    import time

    time.sleep(0.5)  # the driver hears of a start a few milliseconds later
    os.kill(os.getpid(), signal.SIGKILL)


def use_memory(x):
    import time

    time.sleep(0.5)  # the driver hears of a start a few milliseconds later
    data = bytearray(x << 20)
    time.sleep(600)
    return len(data)


def measure_times(x):
    import time

    start = time.monotonic()
    time.sleep(0.5)
    return [start, time.monotonic()]


# -- Workflows -----------------------------------------------------------------------------


class Run:
    """A workflow to which nodes are added; notes what its status callback hears."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statuses: list[tuple[str, str]] = []
        self.workflow = Workflow("wf", base_dir=str(folder / "work"))
        self.workflow.config["execution"] = {
            "crashdump_dir": str(folder / "crashes"),
            "crashfile_format": "txt",
            "stop_on_first_crash": "false",
        }
        (folder / "starts").mkdir(parents=True, exist_ok=True)

    def add(self, name: str, function: Callable, kind: Any = Node, **options: Any) -> Any:
        inputs = {key: options.pop(key) for key in ("x", "y") if key in options}
        node = kind(Function(function=function, output_names=["out"]), name=name, **options)
        if hasattr(node.inputs, "folder"):
            node.inputs.folder = str(self.folder / "starts")
        for key, value in inputs.items():
            setattr(node.inputs, key, value)
        self.workflow.add_nodes([node])
        return node

    def connect(self, source: Any, target: Any, name: str = "x") -> None:
        self.workflow.connect(source, "out", target, name)

    def run(self, updatehash: bool = False, **plugin_args: Any) -> DaskPlugin:
        plugin = DaskPlugin({"status_callback": self._note_status} | plugin_args)
        self.workflow.run(plugin=plugin, updatehash=updatehash)
        return plugin

    def _note_status(self, node: Any, status: str) -> None:
        self.statuses.append((node.name, status))

    def starts(self, x: object) -> int:
        return len(list((self.folder / "starts").glob(f"{x}-*")))

    def results(self) -> dict[str, Any]:
        """Return the outputs of all nodes that did not fail, by their folders."""
        base = self.folder / "work"
        found = {path: load_resultfile(path).outputs for path in base.rglob("result_*.pklz")}
        return {str(path.relative_to(base)): x.out for path, x in found.items() if x is not None}

    def result(self, name: str) -> Any:
        return self.results()[f"wf/{name}/result_{name}.pklz"]

    def crash(self) -> str:
        [path] = (self.folder / "crashes").glob("crash*")
        return path.read_text()


def init_all_kinds(folder: Path) -> Run:
    """Return a workflow with nodes of all kinds."""
    run = Run(folder)
    source = Node(IdentityInterface(["out"]), name="source", iterables=("out", [1, 2, 3]))
    plus = run.add("plus", add, y=10)
    several = run.add("several", add, MapNode, iterfield=["x"], x=[1, 2, 3])
    run.add("one", same, MapNode, iterfield=["x"], x=[5])
    run.add("nested", same, MapNode, iterfield=["x"], nested=True, x=[[1, 2], [3]])
    joined = run.add("joined", total, JoinNode, joinsource="source", joinfield=["xs"])
    last = run.add("last", add)
    files = run.add("files", write_then_read, x=4)
    run.add("here", find_pid, x=1, run_without_submitting=True)
    run.connect(source, plus)
    run.connect(plus, joined, "xs")
    run.connect(files, several, "y")
    run.connect(joined, last, "x")

    inner = Workflow("inner")
    inner_one = Node(Function(function=same, output_names=["out"]), name="inner_one")
    inner_two = Node(Function(function=total, output_names=["out"]), name="inner_two")
    inner.connect(inner_one, ("out", double), inner_two, "xs")
    run.workflow.connect(several, "out", inner, "inner_one.x")
    run.workflow.connect(inner, "inner_two.out", last, "y")
    return run


# -- Pools ---------------------------------------------------------------------------------


class Seen:
    """What a run with a pool of its own looks like from the outside."""

    def __init__(self, folder: Path) -> None:
        self.run = init_all_kinds(folder)
        self.hosts: set[str] = set()
        self.address = ""
        self.answers: dict[str, str] = {}
        self.pages: set[int] = set()
        self.run.workflow.config["execution"]["job_finished_timeout"] = "5"  # Nipype's default
        given = {"n_workers": 2, "n_procs": 2, "memory_gb": 2}
        self.plugin = self.run.run(**given, status_callback=self._look)

    def _look(self, node: Any, status: str) -> None:
        self.run.statuses.append((node.name, status))
        if node.name == "last" and status == "end":
            self._inspect()

    def _inspect(self) -> None:
        sockets = find_listening(os.getpid())
        self.hosts = {host for host, _ in sockets}
        self.address = find_scheduler(os.getpid())
        # Two seconds suffice for an answer from this machine; there is to be none.
        without_tls = self.address.replace("tls://", "tcp://")
        self.answers["nothing"] = try_to_connect(without_tls, None)
        self.answers["other credentials"] = try_to_connect(self.address, Security.temporary())
        for _, port in sockets:
            self.pages |= {find_page(port, page) for page in ("/status", "/info/main/workers.html")}


def find_listening(pid: int) -> set[tuple[str, int]]:
    """Return where a process and its children listen."""
    process = psutil.Process(pid)
    pids = {pid, *(child.pid for child in process.children(recursive=True))}
    return {
        (found.laddr.ip, found.laddr.port)
        for found in psutil.net_connections("tcp")
        if found.pid in pids and found.status == psutil.CONN_LISTEN
    }


def find_scheduler(pid: int) -> str:
    """Return the address that workers were given."""
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            for argument in child.cmdline():
                if re.fullmatch(r"(tls|tcp)://[\d.:]+", argument):
                    return argument
    raise AssertionError("no worker runs")


def try_to_connect(address: str, security: Security | None) -> str:
    try:
        with Client(address, security=security, timeout=2, set_as_default=False):
            return "connected"
    except OSError as error:
        return type(error).__name__


def find_page(port: int, page: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", page)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two workers that somebody else started."""
    with pytest.MonkeyPatch.context() as patch:
        # Nipype leaves a file in the folder where a worker was started (updatehash).
        patch.chdir(tmp_path_factory.mktemp("workers"))
        found = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None
        )
    with found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# -- A pool of our own ---------------------------------------------------------------------


def test_nodes_of_all_kinds_give_the_results_of_linear(seen: Seen, tmp_path: Path) -> None:
    linear = init_all_kinds(tmp_path)
    linear.workflow.run(plugin="Linear")
    expected = linear.results()
    assert seen.run.results() == expected
    # 11 + 12 + 13, and twice 5 + 6 + 7
    assert expected["wf/last/result_last.pklz"] == 36 + 36


def test_the_callback_hears_of_the_start_and_the_end_of_each_node(seen: Seen) -> None:
    names = ["plus"] * 3 + ["joined", "one", "nested", "several", "files", "here", "last"]
    for name in sorted(set(names)):
        times = names.count(name)
        assert seen.run.statuses.count((name, "start")) == times, name
        assert seen.run.statuses.count((name, "end")) == times, name
    assert "exception" not in {status for _, status in seen.run.statuses}


def test_everything_listens_on_this_machine_only(seen: Seen) -> None:
    assert seen.hosts == {"127.0.0.1"}


@pytest.mark.parametrize("credentials", ["nothing", "other credentials"])
def test_nobody_without_the_credentials_of_the_run_gets_in(seen: Seen, credentials: str) -> None:
    assert seen.address.startswith("tls://")
    assert seen.answers[credentials].endswith("CommClosedError")


def test_no_pages_are_served_unless_asked_for(seen: Seen) -> None:
    assert 404 in seen.pages  # somebody answered
    assert 200 not in seen.pages


def test_files_of_this_machine_are_waited_for_as_long_as_nipype_does(seen: Seen) -> None:
    assert seen.plugin._patience_s == 5


def test_no_process_is_left_after_a_run(seen: Seen, wait_until: Callable) -> None:
    wait_until(
        lambda: (
            not [
                child
                for child in psutil.Process().children(recursive=True)
                if "nipype_blm.tasks.worker" in " ".join(child.cmdline())
            ]
        ),
        TIME_LIMIT,
        "the workers are gone",
    )


def test_nodes_that_need_all_memory_run_one_after_the_other(run: Run) -> None:
    for name in ("a", "b", "c"):
        run.add(name, measure_times, x=1, mem_gb=1.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = set()

    def look(node: Any, status: str) -> None:
        hosts.update(host for host, other in find_listening(os.getpid()) if other == port)

    run.run(n_procs=2, memory_gb=2, dashboard_address=f":{port}", status_callback=look)
    times = sorted(run.results().values())
    assert len(times) == 3
    assert all(ended <= started for (_, ended), (started, _) in pairwise(times))
    assert hosts <= {"127.0.0.1", "::1"}
    assert hosts


@pytest.mark.parametrize(
    ("needs", "problem"),
    [
        (
            {"n_procs": 3},
            r"big needs n_procs=3 and mem_gb=0.2, but a worker has n_procs=2 and mem_gb=2",
        ),
        (
            {"mem_gb": 2.5},
            r"big needs n_procs=1 and mem_gb=2.5, but a worker has n_procs=2 and mem_gb=2",
        ),
    ],
    ids=["n_procs", "mem_gb"],
)
def test_a_node_that_fits_into_no_worker_is_refused(
    run: Run, needs: dict[str, float], problem: str
) -> None:
    run.add("small", same, x=1)
    run.add("big", same, x=1, **needs)
    with pytest.raises(InputError, match=problem):
        run.run(n_procs=2, memory_gb=2)
    assert run.statuses == []


def test_a_node_that_fits_into_no_worker_of_a_ready_cluster_is_refused(run: Run) -> None:
    run.add("big", same, x=1, n_procs=3)
    resources = {"n_procs": 2, "mem_gb": 4}
    with threads(resources=resources) as cluster:
        with pytest.raises(InputError) as caught:
            run.run(cluster=cluster)
        assert cluster.scheduler.workers  # it goes on
    [problem] = caught.value.problems
    assert "big needs n_procs=3 and mem_gb=0.2, but a worker has n_procs=2 and mem_gb=4" in problem
    assert run.statuses == []


# -- Lost workers --------------------------------------------------------------------------


def test_lost_workers_are_replaced_and_their_nodes_repeated(run: Run) -> None:
    first = run.add("first", kill_worker_once, x=1)
    second = run.add("second", kill_job_once)
    run.connect(first, second)
    run.run(n_workers=1, n_procs=1)
    assert run.result("second") == 3
    assert (run.starts(1), run.starts(2)) == (2, 2)
    assert run.statuses == [
        ("first", "start"),
        ("first", "end"),
        ("second", "start"),
        ("second", "end"),
    ]


N_WAITING = 4


class Killed:
    """A run with a node that kills its only worker, and nodes that wait, in a job of Slurm."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder)
        self.run.add("killer", kill_worker, x=1)
        for i in range(N_WAITING):
            self.run.add(f"waiting{i}", same, x=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_JOB_ID", "12345")
            with pytest.raises(RuntimeError) as caught:
                self.run.run(n_workers=1, n_procs=1, retries=0)
        self.error = str(caught.value)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tmp_path_factory.mktemp("killed"))


def test_a_node_that_loses_its_worker_is_named_with_the_place_and_the_reason(
    killed: Killed,
) -> None:
    folder = re.escape(str(killed.run.folder / "work" / "wf" / "killer"))
    assert re.search(rf"Node wf\.killer in {folder} was started 1 x", killed.error)
    assert re.search(rf"on {re.escape(os.uname().nodename)} \(pid \d+\)", killed.error)


def test_a_local_worker_is_no_job_even_if_the_driver_is_one(killed: Killed) -> None:
    assert "Likely reason: its process was killed" in killed.error
    assert "Likely reason: its process was killed" in killed.run.crash()


def test_a_node_that_kills_its_worker_fails_alone(killed: Killed) -> None:
    statuses = killed.run.statuses
    of_killer = [status for name, status in statuses if name == "killer"]
    assert of_killer == ["start", "exception"]
    ended = {name for name, status in statuses if status == "end"}
    assert ended == {f"waiting{i}" for i in range(N_WAITING)}


def test_a_node_that_uses_too_much_memory_is_told_so_with_both_figures(run: Run) -> None:
    run.add("hungry", use_memory, x=1024)
    with pytest.raises(RuntimeError) as caught:
        run.run(n_workers=1, n_procs=1, memory_gb=0.5, retries=0)
    found = re.search(r"memory: it used ([\d.]+) of 0\.5 GiB", str(caught.value))
    assert found, str(caught.value)
    assert float(found[1]) > 0.95 * 0.5  # Dask ends a worker at 95 % of its memory


PASSING = [
    *("plain_once_ESTALE", "plain_once_EIO", "plain_once_ENOSPC", "plain_once_EDQUOT"),
    *("plain_once_ETIMEDOUT", "plain_once_EHOSTDOWN", "plain_once_ENOTEMPTY"),
    *("cause_once_EIO", "context_once_ESTALE"),
]


def test_a_node_that_fails_for_its_machine_is_tried_again_after_a_pause(
    run: Run, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a disk or its server, also as the cause of another error or below it."""
    monkeypatch.setattr(disks, "_SECONDS_TO_RECOVER", 0.1)
    for i, x in enumerate(PASSING):
        run.add(f"node{i}", stumble, x=x)
    run.run(cluster=cluster, retries=1)
    assert [run.starts(x) for x in PASSING] == [2] * len(PASSING)
    assert [run.result(f"node{i}") for i in range(len(PASSING))] == PASSING
    assert sorted(run.statuses) == sorted(
        (f"node{i}", status) for i in range(len(PASSING)) for status in ("start", "end")
    )


@pytest.mark.parametrize(
    ("x", "n_starts"),
    [
        ("plain_always_ESTALE", 3),
        ("cause_always_EIO", 3),
        ("plain_always_ENOENT", 1),
        ("plain_always_EACCES", 1),
        ("cause_always_ENOENT", 1),
        ("text_always_EIO", 1),
    ],
)
def test_errors_of_the_input_and_of_the_model_are_not_tried_again(
    run: Run, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, x: str, n_starts: int
) -> None:
    """Those of the machine are, `retries` times."""
    monkeypatch.setattr(disks, "_SECONDS_TO_RECOVER", 0.1)
    run.add("node", stumble, x=x)
    with pytest.raises(RuntimeError):
        run.run(cluster=cluster, retries=2)
    assert run.starts(x) == n_starts
    assert run.statuses == [("node", "start"), ("node", "exception")]


def test_a_job_that_is_not_accepted_ends_the_run_with_what_was_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = run.folder / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    run.add("some", same, x=1)
    with pytest.raises(RuntimeError, match=r"slurm accepts no job.*sbatch.*invalid partition"):
        run.run(cluster="slurm", cores=1, memory="1GB")


def test_an_error_tells_the_end_of_a_log_and_never_of_the_keys_beside_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, programs = run.folder / "logs", run.folder / "bin"
    for folder in (logs, programs):
        folder.mkdir()
    # Names of keys end at random, so that some of them hold the number of a job.
    (logs / ".dask-jobqueue.worker.tls_worker_key.x_7_abcd").write_text("PRIVATE KEY")
    (logs / "slurm-7.out").write_text("what the job said")
    (logs / "slurm-17.out").write_text("what another job said")
    answers = {"sbatch": "Submitted batch job 7", "squeue": "", "sacct": "", "scancel": ""}
    for name, answer in answers.items():
        (programs / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(batch, "_SECONDS_TO_KNOW_AN_END", 0)
    monkeypatch.setattr(pools, "_SECONDS_BETWEEN_QUERIES", 0.1)
    monkeypatch.setattr(pools, "_MOST_FAILED_JOBS", 1)
    run.add("some", same, x=1)
    with pytest.raises(PoolError, match="ended before their workers could report") as caught:
        run.run(cluster="slurm", cores=1, memory="1GB", n_workers=1, log_directory=logs)
    text = str(caught.value)
    assert f"The end of {logs / 'slurm-7.out'}:\nwhat the job said" in text
    assert "another" not in text
    assert "KEY" not in text


# -- Failing nodes -------------------------------------------------------------------------


def test_other_branches_go_on_when_a_node_fails(run: Run, cluster: LocalCluster) -> None:
    failing, after = run.add("failing", fail, x=1), run.add("after", same)
    good, last = run.add("good", same, x=2), run.add("last", same)
    run.connect(failing, after)
    run.connect(good, last)
    with pytest.raises(RuntimeError, match="no such voxel"):
        run.run(cluster=cluster)
    assert run.result("last") == 2
    assert ("failing", "exception") in run.statuses
    assert ("failing", "end") not in run.statuses
    assert ("after", "start") not in run.statuses
    assert "ValueError: no such voxel" in run.crash()


def test_the_first_failure_ends_a_run_that_asks_for_it(run: Run, cluster: LocalCluster) -> None:
    run.workflow.config["execution"]["stop_on_first_crash"] = "true"
    run.add("failing", fail, x=1)
    waiting, after = run.add("waiting", wait, x="waiting"), run.add("after", same)
    run.connect(waiting, after)
    try:
        with pytest.raises(RuntimeError, match="no such voxel"):
            run.run(cluster=cluster)
    finally:
        (run.folder / "starts" / "go").touch()
    assert ("after", "start") not in run.statuses
    assert "ValueError: no such voxel" in run.crash()


def test_a_node_that_exits_fails_and_leaves_the_worker(run: Run, cluster: LocalCluster) -> None:
    run.add("leaving", leave, x=1)
    workers = set(cluster.scheduler.workers)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        run.run(cluster=cluster)
    assert set(cluster.scheduler.workers) == workers


def test_a_node_that_fails_here_fails_the_run(run: Run, cluster: LocalCluster) -> None:
    run.add("failing", fail, x=1, run_without_submitting=True)
    with pytest.raises(Exception, match="no such voxel"):
        run.run(cluster=cluster)


def test_a_map_node_names_the_element_that_fails(run: Run, cluster: LocalCluster) -> None:
    mapped = run.add("mapped", leave, MapNode, iterfield=["x"], x=[1, 2])
    run.connect(mapped, run.add("after", same))
    with pytest.raises(RuntimeError, match="2 raised"):
        run.run(cluster=cluster)
    assert {name for name, status in run.statuses if status == "exception"} == {
        "_mapped0",
        "_mapped1",
    }
    assert ("after", "start") not in run.statuses


# -- Runs that come later ------------------------------------------------------------------


def init_notes(folder: Path, x: int) -> Run:
    """Return a chain of nodes of which each leaves a mark when it runs."""
    run = Run(folder)
    first = run.add("first", note, x=x)
    run.add("mapped", note, MapNode, iterfield=["x"], x=["a", "b"])
    run.add("other", note, x="other")
    run.connect(first, run.add("last", same))
    return run


def find_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result_*.pklz")}


def test_cached_nodes_are_not_submitted(tmp_path: Path, cluster: LocalCluster) -> None:
    init_notes(tmp_path, 1).run(cluster=cluster)
    times = find_times(tmp_path)
    again = init_notes(tmp_path, 1)
    topic = "nipype-blm-started"
    n_started = len(cluster.scheduler.get_events(topic))
    again.run(cluster=cluster)
    assert len(cluster.scheduler.get_events(topic)) == n_started
    assert find_times(tmp_path) == times
    assert again.statuses.count(("last", "end")) == 1

    changed = init_notes(tmp_path, 2)
    changed.run(cluster=cluster)
    assert [changed.starts(x) for x in (1, 2, "a", "b", "other")] == [1] * 5
    assert changed.result("last") == 2


def test_updatehash_runs_no_node_that_has_a_result(tmp_path: Path, cluster: LocalCluster) -> None:
    init_notes(tmp_path, 1).run(cluster=cluster)
    run = init_notes(tmp_path, 2)
    run.run(cluster=cluster, updatehash=True)
    assert (run.starts(1), run.starts(2)) == (1, 0)


# -- Ready clusters ------------------------------------------------------------------------


@pytest.mark.parametrize(("configured_s", "expected_s"), [("5", 60), ("90", 90)])
def test_files_of_other_machines_are_waited_for_a_minute_at_least(
    run: Run, cluster: LocalCluster, configured_s: str, expected_s: float
) -> None:
    """Nipype's default is too short for network disks."""
    run.workflow.config["execution"]["job_finished_timeout"] = configured_s
    run.add("some", same, x=1)
    assert run.run(cluster=cluster)._patience_s == expected_s


def test_a_run_leaves_a_ready_client_as_it_was(run: Run, cluster: LocalCluster) -> None:
    run.add("there", find_pid, x=1)
    with Client(cluster, set_as_default=False) as client:
        run.run(cluster=client)
        assert client.submit(sum, [1, 2]).result(TIME_LIMIT) == 3
        assert run.result("there") in client.run(os.getpid).values()


def test_the_plugin_has_a_name_after_it_is_registered(run: Run, cluster: LocalCluster) -> None:
    register()
    run.add("some", same, x=7)
    run.workflow.run(plugin="Dask", plugin_args={"cluster": cluster})
    assert run.result("some") == 7


def test_a_relative_folder_is_that_of_the_driver(
    run: Run, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.folder)
    run.workflow.base_dir = "work"
    first, second = run.add("first", same, x=3), run.add("second", same)
    run.connect(first, second)
    run.run(cluster=cluster)
    assert run.result("second") == 3


def test_two_runs_share_a_cluster(
    tmp_path: Path, cluster: LocalCluster, wait_until: Callable
) -> None:
    """Also from a thread that is not the main one."""
    long, short = Run(tmp_path / "long"), Run(tmp_path / "short")
    long.add("long", wait, x="long")
    short.add("short", same, x=1)
    thread = threading.Thread(target=long.run, kwargs={"cluster": cluster})
    thread.start()
    try:
        wait_until(lambda: long.starts("long"), TIME_LIMIT, "the long node has started")
        short.run(cluster=cluster)
    finally:
        (tmp_path / "long" / "starts" / "go").touch()
        thread.join(TIME_LIMIT)
    assert short.result("short") == 1
    assert long.result("long") == "long"
    assert long.starts("long") == 1


def test_nodes_on_threads_of_one_process_keep_their_working_directories(run: Run) -> None:
    folder = Path.cwd()
    for i in range(4):
        run.add(f"node{i}", write_then_read, x=i)
    with threads() as cluster:
        run.run(cluster=cluster)
    assert [run.result(f"node{i}") for i in range(4)] == [0, 1, 2, 3]
    assert Path.cwd() == folder


def test_a_node_that_runs_here_shares_the_working_directory_with_none(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.folder
    monkeypatch.chdir(folder)
    run.add("there", write_then_read, x=1)
    run.add("here", write_then_read, x=2, run_without_submitting=True)
    with threads() as cluster:
        run.run(cluster=cluster)
    assert (run.result("there"), run.result("here")) == (1, 2)
    assert Path.cwd() == folder


def threads(**options: Any) -> LocalCluster:
    """Return a cluster whose worker lives in this process."""
    return LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address="127.0.0.1:0",
        **options,
    )


# -- Programs ------------------------------------------------------------------------------

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from nipype import Function, Node, Workflow
from nipype_blm.plugins import DaskPlugin

def step(x, number, folder):
    import subprocess, time, uuid
    from pathlib import Path
    if not Path(folder, f"go{number}").exists():
        subprocess.Popen(["sleep", "600"])
    Path(folder, f"{number}-{uuid.uuid4().hex}").touch()
    while not Path(folder, f"go{number}").exists():
        time.sleep(0.1)
    return x + 1

def same(x):
    return x

def fail(x):
    raise ValueError("no such voxel")

def sleep(x):
    import time
    time.sleep(x)

Path("pid").write_text(str(os.getpid()))
folder = sys.argv[1]
workflow = Workflow("wf", base_dir=folder)
workflow.config["execution"] = {"crashdump_dir": folder}
"""

# Without `if __name__ == "__main__"`, as many scripts are.
CHAIN = """
before = None
for number in range(4):
    function = Function(function=step, output_names=["out"])
    node = Node(function, name=f"step{number}")
    node.inputs.number, node.inputs.folder = number, folder
    if before is None:
        node.inputs.x = 0
        workflow.add_nodes([node])
    else:
        workflow.connect(before, "out", node, "x")
    before = node
workflow.run(plugin=DaskPlugin({"n_workers": 1, "n_procs": 1}))
"""


def find_children(program: Any) -> list[psutil.Process]:
    pid = int((program.folder / "pid").read_text())
    return psutil.Process(pid).children(recursive=True)


def test_a_run_that_is_ended_leaves_no_process_and_goes_on_where_it_was(
    start_program: Callable, tmp_path: Path, wait_until: Callable
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()

    def starts() -> list[int]:
        return [len(list(folder.glob(f"{number}-*"))) for number in range(4)]

    for number, how in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), start=1):
        (folder / f"go{number - 1}").touch()
        program = start_program(PROGRAM + CHAIN, str(folder))
        wait_until(
            lambda n=number, p=program: starts()[n] or p.has_ended, TIME_LIMIT, "a node waits"
        )
        children = find_children(program)
        assert len(children) > 3, program.output  # bash, Dask's nanny, the worker, its command
        os.kill(int((program.folder / "pid").read_text()), how)
        assert program.wait(TIME_LIMIT) != 0, program.output
        # Also those of a driver that was killed, within a minute.
        wait_until(
            lambda found=children: not any(p.is_running() for p in found),
            60,
            f"no process is left after {how.name}",
        )
    (folder / "go3").touch()
    program = start_program(PROGRAM + CHAIN, str(folder))
    assert program.wait(TIME_LIMIT) == 0, program.output
    assert starts() == [1, 2, 2, 2]
    [result] = folder.glob("wf/step3/result_step3.pklz")
    assert load_resultfile(result).outputs.out == 4


def test_the_end_of_a_cluster_in_the_users_process_leaves_the_process(
    fork_program: Callable, tmp_path: Path
) -> None:
    program = fork_program(
        PROGRAM
        + """
from distributed import LocalCluster
workflow.config["execution"]["stop_on_first_crash"] = "true"
failing = Node(Function(function=fail, output_names=["out"]), name="failing")
failing.inputs.x = 1
sleeping = Node(Function(function=sleep, output_names=["out"]), name="sleeping")
sleeping.inputs.x = 3
workflow.add_nodes([failing, sleeping])
try:
    with LocalCluster(n_workers=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        workflow.run(plugin=DaskPlugin({"cluster": cluster}))
except RuntimeError:
    print("the program goes on")
""",
        str(tmp_path),
    )
    program.wait(TIME_LIMIT)
    assert "the program goes on" in program.output
