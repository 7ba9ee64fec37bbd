"""The faults: each is done to a run of its own, whose end is then judged."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from cli.test_faults import fill, finish
from plugins.conftest import SCRIPTS

from faults.runs import (
    HALVES,
    POOLS,
    SUBMITS,
    PooledDriver,
    find_nannies,
    find_workers,
    kill,
    make_chatty,
)
from faults.study import FIELDS, write_image

MEMORY_FAULT = Path(__file__).parent / "memory"
# The fault comes when so many of the 24 batches are done.
MOMENT = ("products", 7)
LIMIT_S = 300
MOST_LINES = 5  # of messages that are kept


class Outcome(NamedTuple):
    """What became of a run."""

    ended: str
    is_right: bool
    n_lost: int  # maps that are not there or not the same; finished nodes that ran again
    noticed_s: float | None = None  # from the fault to the first answer to it
    message: str = ""


class Setup(NamedTuple):
    """Where a fault happens."""

    pool: str
    scheduler: Any  # None: workers are processes of this machine
    state: Path  # folder of the scheduler
    folder: Path
    inputs: Path
    maps: dict[str, bytes]  # of a run that nothing disturbed
    replaced_maps: dict[str, bytes]  # of a run with another image

    def make_driver(self, name: str = "run", **arguments: Any) -> PooledDriver:
        folder = self.folder / name
        folder.mkdir()
        driver = PooledDriver(folder, self.inputs, self.pool)
        driver.configure(**FIELDS)
        driver.arguments |= arguments
        return driver

    def restart_scheduler(self) -> None:
        """Start what has been killed of the scheduler."""
        start = SCRIPTS / f"start-{self.pool}.sh"
        subprocess.run([start, self.state], check=True, timeout=LIMIT_S)

    def find_jobs(self, driver: PooledDriver) -> set[str]:
        """Return its jobs; those of local workers are processes."""
        if self.scheduler is None:
            return {str(nanny.pid) for nanny in find_nannies(driver.folder)}
        return driver.find_jobs(self.scheduler)

    def judge(
        self,
        driver: PooledDriver,
        code: int,
        printed: str,
        before: dict[Path, int],
        noticed_s: float | None,
    ) -> Outcome:
        """Return what became of a run that should have gone on from what had been finished."""
        assert before, "nothing was finished when the fault came"
        after = driver.stamp()
        n_lost = sum(after.get(path) != end for path, end in before.items())
        is_right = code == 0 and driver.maps() == self.maps
        return Outcome(
            "same maps" if is_right else f"exit code {code}",
            is_right and n_lost == 0,
            n_lost,
            noticed_s,
            find_message(printed),
        )


class Fault(NamedTuple):
    """What happens, and where it can."""

    title: str
    pools: Sequence[str]
    run: Callable[[Setup], Outcome]


FAULTS: list[Fault] = []


def fault(title: str, *pools: str) -> Callable:
    def register(run: Callable[[Setup], Outcome]) -> Callable[[Setup], Outcome]:
        FAULTS.append(Fault(title, pools or POOLS, run))
        return run

    return register


def find_message(printed: str) -> str:
    """Return the errors and warnings of a run without its progress, shortened in the middle."""
    progress = ("nodes:", "reading images:", "fitting voxels:", "images read", "voxels fitted")
    progress += ("compiling what", "blm ", "blmm ")
    lines = [line for line in printed.splitlines() if line and not line.startswith(progress)]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 2], "...", lines[-1]]
    return "\n".join(lines)


def measure(condition: Callable[[], Any], process: Any = None, limit_s: float = LIMIT_S) -> float:
    """Return the seconds until a condition holds, or a process has ended."""
    start = time.monotonic()
    while not condition() and (process is None or process.poll() is None):
        if time.monotonic() - start > limit_s:
            raise TimeoutError(f"nothing happened for {limit_s} s")
        time.sleep(0.05)
    return round(time.monotonic() - start, 1)


# -- Workers and jobs ----------------------------------------------------------------------


@fault("kill -9 of a worker in mid-batch")
def kill_worker(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    with driver.start_until(*MOMENT) as process:
        before = driver.stamp()
        workers = find_workers(driver.folder)
        assert kill(workers[:1]), "there was no worker"
        noticed_s = measure(lambda: set(find_workers(driver.folder)) - set(workers), process)
        code, printed = finish(process)
    return setup.judge(driver, code, printed, before, noticed_s)


def kill_all_workers(driver: PooledDriver) -> list[int]:
    return kill(find_nannies(driver.folder) + find_workers(driver.folder))


@fault("a job is cancelled (scancel, qdel; locally all of its processes are killed)")
def cancel_job(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    with driver.start_until(*MOMENT) as process:
        before, jobs = driver.stamp(), setup.find_jobs(driver)
        if setup.scheduler is None:
            assert kill_all_workers(driver)
        else:
            setup.scheduler.cancel(min(jobs, key=int))  # the first one, which runs
        noticed_s = measure(lambda: setup.find_jobs(driver) - jobs, process)
        code, printed = finish(process)
    return setup.judge(driver, code, printed, before, noticed_s)


@fault("a site's banner around the answer of sbatch or qsub", "slurm", "sge")
def read_through_banner(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    driver.environment |= make_chatty(driver.folder / "bin", SUBMITS[setup.pool])
    with driver.start_until(*MOMENT) as process:
        before = driver.stamp()
        code, printed = finish(process)
    left_s = measure(lambda: not setup.find_jobs(driver))  # of the jobs, once the run has ended
    return setup.judge(driver, code, printed, before, left_s)


# -- Memory --------------------------------------------------------------------------------


def listen_to_memory_fault(driver: PooledDriver, *, with_limit_of_dask: bool = True) -> None:
    """Let the workers of a run use much memory on demand."""
    path = f"{MEMORY_FAULT}:{os.environ.get('PYTHONPATH', '')}"
    lines = [f"export PYTHONPATH={path}"]
    if not with_limit_of_dask:
        lines.append("export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=False")
    if driver.pool == "local":
        driver.environment |= {"PYTHONPATH": path}
    else:
        driver.arguments["job_script_prologue"] = lines


def exceed_memory(setup: Setup, driver: PooledDriver) -> Outcome:
    with driver.start_until(*MOMENT) as process:
        before = driver.stamp()
        worker = find_workers(driver.folder)[0]
        worker.send_signal(signal.SIGUSR1)
        noticed_s = measure(lambda: not worker.is_running(), process)
        code, printed = finish(process)
    assert not worker.is_running(), "the memory was not used"
    return setup.judge(driver, code, printed, before, noticed_s)


@fault("a node uses more memory than its worker has, once (Dask's limit)")
def exceed_limit_of_dask(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    listen_to_memory_fault(driver)
    return exceed_memory(setup, driver)


@fault("a node uses more memory than its job asked for, once (OverMemoryKill)", "slurm")
def exceed_limit_of_job(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    listen_to_memory_fault(driver, with_limit_of_dask=False)
    return exceed_memory(setup, driver)


HUNGRY = """
import json, sys
from nipype import Function, Node, Workflow
from nipype_blm.plugins import DaskPlugin

def eat():
    import time
    data = b"x" * 3 * 10**9
    time.sleep(30)
    return len(data)

wf = Workflow("hungry", base_dir=".")
wf.config["execution"] = {"crashdump_dir": "."}
wf.add_nodes([Node(Function(function=eat), "eat")])
wf.run(plugin=DaskPlugin(json.loads(sys.argv[1])))
"""


def starve(setup: Setup, *words: str, **arguments: Any) -> Outcome:
    """Run a workflow whose node always needs more memory than there is."""
    driver = setup.make_driver(**arguments)
    program = driver.folder / "hungry.py"
    program.write_text(HUNGRY)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, program, json.dumps(driver.arguments | {"cluster": setup.pool})],
        cwd=driver.folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    lines = done.stderr.strip().splitlines()
    first = max((i for i, line in enumerate(lines) if "Error: " in line), default=0)
    message = "\n".join(lines[first:])
    is_right = done.returncode == 1 and all(word in message for word in words)
    return Outcome(
        "error that names node and reason" if is_right else f"exit code {done.returncode}",
        is_right,
        0,
        round(time.monotonic() - start, 1),
        find_message(message),
    )


@fault("a node always uses more memory than its worker has (Dask's limit)")
def starve_dask(setup: Setup) -> Outcome:
    arguments = {"memory_gb": 1} if setup.pool == "local" else {}
    return starve(setup, "eat", "memory: it used", **arguments)


@fault("a node always uses more memory than its job asked for (OverMemoryKill)", "slurm")
def starve_job(setup: Setup) -> Outcome:
    line = "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=False"
    return starve(setup, "eat", "Exceeded job memory limit", job_script_prologue=[line])


@fault("a node always uses more memory than its job asked for (h_vmem)", "sge")
def starve_process(setup: Setup) -> Outcome:
    return starve(setup, "eat", "MemoryError", resource_spec="h_vmem=3G")


# -- Time ----------------------------------------------------------------------------------

WALLTIMES = {"slurm": "00:01:00", "sge": "00:00:30"}


def exceed_walltime(setup: Setup, **arguments: Any) -> tuple[PooledDriver, dict, float, int, str]:
    """Stop the processes of all workers until their jobs have reached their walltime."""
    driver = setup.make_driver(walltime=WALLTIMES[setup.pool], **arguments)
    with driver.start_until(*MOMENT) as process:
        before, jobs = driver.stamp(), setup.find_jobs(driver)
        workers = find_workers(driver.folder)
        assert workers
        for worker in workers:
            worker.suspend()
        noticed_s = measure(lambda: not jobs & setup.find_jobs(driver), process)
        code, printed = finish(process)
    return driver, before, noticed_s, code, printed


@fault("walltime: nodes hang until their jobs are killed", "slurm", "sge")
def exceed_walltime_once(setup: Setup) -> Outcome:
    driver, before, noticed_s, code, printed = exceed_walltime(setup)
    return setup.judge(driver, code, printed, before, noticed_s)


@fault("walltime, without repeating nodes; then the same command", "slurm", "sge")
def exceed_walltime_and_give_up(setup: Setup) -> Outcome:
    driver, before, noticed_s, code, printed = exceed_walltime(setup, retries=0)
    is_clear = code == 1 and re.search(r"Node _products\d.*Job \d+: walltime", printed, re.S)
    outcome = setup.judge(driver, *driver.run(), before, noticed_s)
    return outcome._replace(
        ended=f"error that names {'walltime' if is_clear else 'NOT walltime'}; {outcome.ended}",
        is_right=bool(is_clear) and outcome.is_right,
        message=find_message(printed),
    )


# (walltime, seconds of a node, nodes): two workers, each of which would be killed in mid-node.
HALF_WALLTIMES = {"slurm": ("00:01:00", 26, 6), "sge": ("00:00:28", 12, 4)}


@fault("walltime: nodes take half of it, and nothing is repeated", "slurm", "sge")
def drain_before_walltime(setup: Setup) -> Outcome:
    walltime, seconds, n_nodes = HALF_WALLTIMES[setup.pool]
    driver = setup.make_driver(walltime=walltime, cluster=setup.pool, retries=0)
    (driver.folder / "halves.py").write_text(HALVES)
    numbers = (str(seconds), str(n_nodes))
    done = subprocess.run(
        [sys.executable, "halves.py", json.dumps(driver.arguments), *numbers],
        cwd=driver.folder,
        env=os.environ | {"LOGNAME": driver.job_name},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    n_starts = len(list(driver.folder.glob("*.started")))
    is_right = done.returncode == 0 and n_starts == n_nodes
    ended = f"{n_nodes} nodes were started {n_starts} x"
    message = "" if is_right else find_message(done.stderr)
    return Outcome(ended, is_right, n_starts - n_nodes, message=message)


# -- The driver ----------------------------------------------------------------------------


@fault("kill -9 of the driver; then the same command")
def kill_driver(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    with driver.start_until(*MOMENT) as process:
        process.kill()
        finish(process)
    before = driver.stamp()
    ended_s = measure(lambda: not setup.find_jobs(driver) and not find_workers(driver.folder))
    return setup.judge(driver, *driver.run(), before, ended_s)


@fault("two runs into one outdir at once")
def run_twice(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    with driver.start_until(*MOMENT) as process:
        process.send_signal(signal.SIGSTOP)  # else it could end before the second begins
        before, start = driver.stamp(), time.monotonic()
        code, printed = driver.run()
        noticed_s = round(time.monotonic() - start, 1)
        process.send_signal(signal.SIGCONT)
        outcome = setup.judge(driver, *finish(process), before, noticed_s)
    who = f"process {process.pid} on {socket.gethostname()}"
    is_clear = code == 2 and who in printed
    return outcome._replace(
        ended=f"the second is {'refused' if is_clear else 'NOT refused'}; {outcome.ended}",
        is_right=is_clear and outcome.is_right,
        message=find_message(printed),
    )


# -- Disks and files -----------------------------------------------------------------------


@fault("the disk of the working directory is full; then there is space")
def fill_disk(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    disk = driver.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(disk)], check=True)
    try:
        driver.configure(work_dir=str(disk / "work"))
        with driver.start_until(*MOMENT) as process:
            before, workers = driver.stamp(), find_workers(driver.folder)
            for worker in workers:  # which would write meanwhile
                worker.suspend()
            ballast = fill(disk, leave=3_000_000)
            for worker in workers:
                worker.resume()
            noticed_s = measure(lambda: False, process)
            code, printed = finish(process)
        ballast.unlink()
        is_clear = code == 1 and "is full" in printed and driver.maps() == {}
        outcome = setup.judge(driver, *driver.run(), before, noticed_s)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return outcome._replace(
        ended=f"error that names {'the disk' if is_clear else 'NOT the disk'}; {outcome.ended}",
        is_right=is_clear and outcome.is_right,
        message=find_message(printed),
    )


@fault("the disk shows the files of other processes three seconds late")
def show_files_late(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    driver.show_files_late()
    with driver.start_until(*MOMENT) as process:
        before = driver.stamp()
        code, printed = finish(process)
    return setup.judge(driver, code, printed, before, None)


def change_image(
    setup: Setup, change: Callable[[Path], Any], expected: dict[str, bytes] | None
) -> Outcome:
    """Change an image between two runs; then give it back, and run again."""
    inputs = setup.folder / "inputs"
    shutil.copytree(setup.inputs, inputs)
    setup = setup._replace(inputs=inputs)
    driver = setup.make_driver()
    code, printed = driver.run()
    assert code == 0, printed
    image = inputs / "s07.nii.gz"
    original = image.read_bytes()
    change(image)
    start = time.monotonic()
    code, printed = driver.run()
    noticed_s = round(time.monotonic() - start, 1)
    if expected is None:
        is_right = code == 2 and image.name in printed
        ended = "error that names the image" if is_right else f"exit code {code}"
        expected = setup.maps
    else:
        is_right = code == 0
        ended = "maps of the new image" if is_right else f"exit code {code}"
    n_lost = sum(driver.maps().get(name) != content for name, content in expected.items())
    message = find_message(printed)
    image.write_bytes(original)
    code, printed = driver.run()
    is_right = is_right and n_lost == 0 and code == 0 and driver.maps() == setup.maps
    ended += "; image given back: " + ("same maps" if is_right else f"exit code {code}")
    return Outcome(ended, is_right, n_lost, noticed_s, message)


def corrupt(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 255
    image.write_bytes(data)


@fault("an image is corrupted between two runs")
def corrupt_image(setup: Setup) -> Outcome:
    return change_image(setup, corrupt, None)


@fault("an image is replaced between two runs")
def replace_image(setup: Setup) -> Outcome:
    return change_image(setup, lambda image: write_image(image, 999), setup.replaced_maps)


@fault("an image is deleted between two runs")
def delete_image(setup: Setup) -> Outcome:
    return change_image(setup, Path.unlink, None)


@fault("the working directory is moved between a run that was ended and the next")
def move_work_dir(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    driver.configure(work_dir="work")
    with driver.start_until(*MOMENT) as process:
        process.terminate()
        finish(process)
    driver.work.rename(driver.folder / "moved")
    driver.configure(work_dir="moved")
    before = driver.stamp()
    code, printed = driver.run()
    n_again = sum(driver.stamp().get(path) != end for path, end in before.items())
    is_right = code == 0 and driver.maps() == setup.maps
    # Paths are inputs of nodes, so that those that are moved run again.
    ended = "same maps" if is_right else f"exit code {code}"
    ended += f"; {n_again} of {len(before)} finished nodes have run again"
    return Outcome(ended, is_right, 0, None, find_message(printed))


# -- The scheduler -------------------------------------------------------------------------

MASTERS = {"slurm": "run/slurmctld.pid", "sge": "qmaster/qmaster.pid"}


# A controller of Slurm that has not saved what it knows gives the same numbers to other jobs
# later; it saves every few seconds.
SAVED_S = 10


def lose_everything(setup: Setup, driver: PooledDriver) -> None:
    """Kill the scheduler and all workers, which do nothing more while its state is saved."""
    for worker in find_workers(driver.folder):
        worker.suspend()
    time.sleep(SAVED_S)
    master = psutil.Process(int((setup.state / MASTERS[setup.pool]).read_text()))
    master.kill()
    measure(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE)
    assert kill_all_workers(driver)


@fault("the scheduler is killed and started again; meanwhile all workers are lost", "slurm", "sge")
def restart_scheduler(setup: Setup) -> Outcome:
    driver = setup.make_driver()
    with driver.start_until(*MOMENT) as process:
        before = driver.stamp()
        lose_everything(setup, driver)
        time.sleep(10)
        setup.restart_scheduler()
        noticed_s = measure(lambda: find_workers(driver.folder), process)
        code, printed = finish(process)
    return setup.judge(driver, code, printed, before, noticed_s)


@fault("the scheduler is killed, and so are all workers; later the same command", "slurm", "sge")
def lose_scheduler(setup: Setup) -> Outcome:
    driver = setup.make_driver(lost_timeout=10)
    try:
        with driver.start_until(*MOMENT) as process:
            before = driver.stamp()
            lose_everything(setup, driver)
            noticed_s = measure(lambda: False, process)
            code, printed = finish(process)
    finally:
        setup.restart_scheduler()
    # What sbatch and squeue, or qsub and qstat, say.
    is_clear = code == 1 and re.search("unable to contact|lost_timeout", printed, re.I)
    outcome = setup.judge(driver, *driver.run(), before, noticed_s)
    return outcome._replace(
        ended=f"error that {'says so' if is_clear else 'does NOT say so'}; {outcome.ended}",
        is_right=bool(is_clear) and outcome.is_right,
        message=find_message(printed),
    )
