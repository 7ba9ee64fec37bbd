"""The process of ArchNGV's environment that is kept: what it runs, and how that and it end."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest

from nipype_blm.ngv.environment import companion as module
from nipype_blm.ngv.environment.companion import (
    Companion,
    CompanionError,
    Ended,
    borrowing,
    close_companions,
    make_environment,
    run_command,
)

HERE = Path(sys.executable)  # where no module of ArchNGV is imported, any Python will do
Run = Callable[..., Ended]


@pytest.fixture(scope="module", params=["fork", "spawn"])
def companion(request: Any) -> Iterator[Companion]:
    """Both ways in which commands are run."""
    python = request.getfixturevalue("ngv_python") if request.param == "fork" else HERE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WAY", request.param)
        companion = Companion(python)
    yield companion
    companion.close()


@pytest.fixture
def run(companion: Companion, tmp_path: Path) -> Run:
    """Function that runs the source of a script."""
    return lambda *arguments, **options: _run(companion, tmp_path, *arguments, **options)


def _run(companion: Companion, folder: Path, source: str, *arguments: str, **options: Any) -> Ended:
    script = folder / "script.py"
    script.write_text(source)
    options = {"cwd": folder, "log": folder / "log.txt"} | options
    return companion.run([str(script), *arguments], **options)


@pytest.fixture
def spawning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Companions that start at once, and have no ArchNGV."""
    close_companions()
    monkeypatch.setattr(module, "_WAY", "spawn")
    yield
    close_companions()


def test_a_script_runs_in_its_folder_with_its_arguments_and_variables(run: Run, tmp_path: Path):
    source = (
        "import json, os, sys\n"
        "json.dump([sys.argv[1:], os.getcwd(), os.environ['COLOUR']], open('out.json', 'w'))\n"
        "print('done')"
    )
    (tmp_path / "in here").mkdir()
    arguments = ["a b", "ü\n\"'", "\udcff"]
    folder = tmp_path / "in here"
    assert run(source, *arguments, cwd=folder, env={"COLOUR": "röt"}) == Ended(0)
    found = json.loads((folder / "out.json").read_text())
    assert found == [arguments, str(folder), "röt"]
    assert (tmp_path / "log.txt").read_text() == "done\n"


def test_a_log_is_gone_on_with_and_whatever_writes_to_it_is_in_it(run: Run, tmp_path: Path):
    (tmp_path / "log.txt").write_text("before\n")
    run("import os, sys\nsys.stderr.write('one\\n')\nos.system('echo two')\nprint('three')")
    assert (tmp_path / "log.txt").read_text() == "before\none\ntwo\nthree\n"


def test_relative_paths_are_of_who_asks(
    companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    _run(companion, tmp_path, "print('here')", cwd=Path(), log=Path("own.txt"))
    assert (tmp_path / "own.txt").read_text() == "here\n"


@pytest.mark.parametrize(
    ("source", "code", "error"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no such cell: ü')", 1, "no such cell: ü"),
        ("import sys; sys.exit()", 0, ""),
        ("assert 1 > 2", 1, "AssertionError"),
        ("raise ValueError('two\\nlines {\"}')", 1, 'ValueError: two\nlines {"}'),
        ("raise OSError('\\udcff\\0\\u2603')", 1, "OSError: \udcff\0\u2603"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E", 1, "E"),
        ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_how_a_script_ends_is_told(run: Run, source: str, code: int, error: str, tmp_path: Path):
    assert run(source) == Ended(code, error)
    log = (tmp_path / "log.txt").read_text()
    assert not error or error.splitlines()[0][:12].split("\udcff")[0] in log


def test_a_script_ends_as_python_ends(run: Run, tmp_path: Path):
    """Files that nobody closes are written, threads waited for, and what is registered is done."""
    source = (
        "import atexit, threading, time\n"
        "file = open('file', 'w'); file.write('written')\n"
        "class Loop: pass\n"
        "loop = Loop(); loop.loop = loop\n"
        "loop.file = open('loop', 'w'); loop.file.write('written')\n"
        "atexit.register(lambda: open('atexit', 'w').write('written'))\n"
        "late = lambda: (time.sleep(0.5), open('thread', 'w').write('written'))\n"
        "threading.Thread(target=late).start()\n"
    )
    assert run(source) == Ended(0)
    for name in ("file", "loop", "atexit", "thread"):
        assert (tmp_path / name).read_text() == "written"


def test_an_hdf5_file_that_nobody_closes_is_whole(ngv_python: Path, tmp_path: Path):
    source = (
        "import h5py\nfile = h5py.File('a.h5', 'w')\nfile['x'] = list(range(9))\ng = lambda: file"
    )
    (tmp_path / "s.py").write_text(source)
    argv = [str(tmp_path / "s.py")]
    assert run_command(ngv_python, argv, tmp_path, tmp_path / "log.txt") == Ended(0)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][:].tolist() == list(range(9))


def test_an_error_of_megabytes_is_cut(run: Run):
    ended = run("raise ValueError('\\u2603' * 2_000_000)")
    assert ended.error.startswith("ValueError: \u2603\u2603")
    assert len(ended.error) == 4000


def test_megabytes_of_output_are_in_the_log(run: Run, tmp_path: Path):
    assert not run("for _ in range(1000):\n  print('x' * 9999)").code
    assert (tmp_path / "log.txt").stat().st_size == 10_000_000


def test_a_long_list_of_arguments_gets_there(companion: Companion, tmp_path: Path):
    # Longer than a pipe holds (64 KiB), shorter than an argument may be (128 KiB).
    ended = _run(
        companion, tmp_path, "import sys; sys.exit(len(sys.argv[1]) // 1000)", "x" * 90_000
    )
    assert ended.code == 90


def test_a_signal_that_ends_a_script_is_named(run: Run):
    killed = run("import os; os.kill(os.getpid(), 9)")
    assert killed.code == -signal.SIGKILL
    assert "SIGKILL" in killed.describe()
    assert "memory" in killed.describe()
    assert "SIGSEGV" in run("import os; os.kill(os.getpid(), 11)").describe()


@pytest.mark.parametrize("place", ["missing/log.txt", "."])
def test_a_log_that_cannot_be_written_is_told(run: Run, place: str, tmp_path: Path):
    ended = run("pass", log=tmp_path / place)
    assert ended.code == 1
    assert str(tmp_path / place) in ended.error
    assert run("pass") == Ended(0)  # and the next command is run


def test_a_folder_that_is_not_there_is_told(run: Run, tmp_path: Path):
    assert run("pass", cwd=tmp_path / "gone").error.startswith("FileNotFoundError")


_SLEEP = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)"
_WAIT = (
    "import sys, time\nwhile not (os.path.isfile('pid') and open('pid').read()): time.sleep(0.05)"
)


@pytest.mark.parametrize(
    "leave",
    [
        f"if not os.fork():\n  {_SLEEP}",
        f"import subprocess as s, sys\ns.Popen([sys.executable, '-c', {_SLEEP!r}])",
    ],
    ids=["a copy", "a program"],
)
def test_what_a_script_leaves_running_is_ended_and_not_waited_for(
    run: Run, leave: str, tmp_path: Path, wait_until: Callable[..., None]
):
    start = time.monotonic()
    assert run(f"import os\n{leave}\n{_WAIT}\nsys.exit(4)") == Ended(4)
    assert time.monotonic() - start < 60
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not _is_running(pid), 10, "what was left has ended")


def test_many_commands_leave_no_open_files(companion: Companion, run: Run):
    def count() -> tuple[int, int]:
        return psutil.Process().num_fds(), psutil.Process(companion._process.pid).num_fds()

    run("pass")
    before = count()
    for _ in range(10):
        run("raise ValueError")
    assert count() == before


def test_a_command_of_archngv_runs_and_its_fault_is_told(ngv_python: Path, tmp_path: Path):
    log = tmp_path / "log.txt"
    assert run_command(ngv_python, ["ngv", "--help"], tmp_path, log) == Ended(0)
    assert "cell-placement" in log.read_text()
    ended = run_command(ngv_python, ["ngv", "cell-placement"], tmp_path, log)
    assert ended == Ended(1, "Missing option '--config'.")
    ended = run_command(ngv_python, ["vascpy", "no-such"], tmp_path, log)
    assert ended.error.startswith("No such command 'no-such'")


def test_commands_one_after_the_other_are_run_by_one_process(spawning: None, tmp_path: Path):
    (tmp_path / "s.py").write_text("import os; print(os.getppid())")
    for _ in range(3):
        run_command(HERE, [str(tmp_path / "s.py")], tmp_path, tmp_path / "log.txt")
    assert len(set((tmp_path / "log.txt").read_text().split())) == 1


def test_each_thread_has_a_process_of_its_own(spawning: None, tmp_path: Path):
    (tmp_path / "s.py").write_text("import sys; sys.exit(int(sys.argv[1]))")

    def act(n: int) -> int:
        argv = [str(tmp_path / "s.py"), str(n)]
        return run_command(HERE, argv, tmp_path, tmp_path / f"{n}.txt").code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(act, range(12))) == list(range(12))


def test_after_an_error_of_who_borrowed_it_a_process_is_not_used_again(spawning: None):
    with pytest.raises(ZeroDivisionError), borrowing(HERE) as first:
        raise ZeroDivisionError
    assert not _is_running(first._process.pid)
    with borrowing(HERE) as second:
        assert second is not first


def test_a_process_that_is_not_asked_ends_and_another_one_is_started(
    spawning: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_until: Callable[..., None]
):
    short = Companion(HERE, idle_s=1)
    assert _run(short, tmp_path, "import time; time.sleep(2)") == Ended(0)  # that is not idle
    monkeypatch.setitem(module._idle, HERE, [short])
    wait_until(lambda: not short.is_alive, 20, "it has ended")
    with borrowing(HERE) as other:
        assert other is not short
    assert short._process.returncode == 0


def test_a_process_that_was_killed_is_told_and_replaced(
    spawning: None, tmp_path: Path, wait_until: Callable[..., None]
):
    with suppress(CompanionError), borrowing(HERE) as companion:
        os.kill(companion._process.pid, signal.SIGKILL)
        with pytest.raises(CompanionError, match="SIGKILL"):
            _run(companion, tmp_path, "pass")
        raise CompanionError
    with borrowing(HERE) as companion:
        assert _run(companion, tmp_path, "pass") == Ended(0)


def test_what_runs_ends_when_the_process_that_runs_it_is_killed(
    ngv_python: Path, tmp_path: Path, wait_until: Callable[..., None]
):
    """As by what watches memory, which may choose either of them."""
    (tmp_path / "s.py").write_text(_SLEEP)
    with (
        ThreadPoolExecutor(1) as pool,
        suppress(CompanionError),
        borrowing(ngv_python) as companion,
    ):
        argv = [str(tmp_path / "s.py")]
        ended = pool.submit(companion.run, argv, tmp_path, tmp_path / "log.txt")
        pid = _wait_for_pid(tmp_path / "pid", wait_until)
        os.kill(companion._process.pid, signal.SIGKILL)
        with pytest.raises(CompanionError, match="SIGKILL"):
            ended.result(30)
        wait_until(lambda: not _is_running(pid), 10, "what ran has ended")
        raise CompanionError  # not to be used again


def _wait_for_pid(path: Path, wait_until: Callable[..., None], seconds: float = 60) -> int:
    wait_until(lambda: path.is_file() and path.read_text(), seconds, f"{path} is written")
    return int(path.read_text())


_BORROW = f"""
import os, sys, threading, time
from pathlib import Path
from nipype_blm.ngv.environment import companion
companion._WAY = sys.argv[1]
python, here = Path(sys.argv[2]), Path.cwd()
(here / "sleep.py").write_text({_SLEEP!r})
def act():
    companion.run_command(python, [str(here / "sleep.py")], here, here / "log.txt")
"""


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("fork", signal.SIGKILL),
        ("spawn", signal.SIGKILL),
        ("spawn", signal.SIGTERM),
        ("spawn", signal.SIGINT),
    ],
)
def test_whatever_ends_who_asked_ends_the_process_and_what_it_runs(
    way: str,
    number: signal.Signals,
    request: Any,
    start_program: Callable[..., Any],
    wait_until: Callable[..., None],
):
    python = request.getfixturevalue("ngv_python") if way == "fork" else HERE
    program = start_program(f"{_BORROW}\nact()", way, str(python))
    pid = _wait_for_pid(program.folder / "pid", wait_until)
    server = psutil.Process(pid).ppid()
    os.kill(program._process.pid, number)
    wait_until(lambda: not _is_running(pid), 20, "what ran has ended")
    wait_until(lambda: not _is_running(server), 20, "its process has ended")


def test_a_forked_child_neither_waits_nor_keeps_the_process_alive(
    start_program: Callable[..., Any], wait_until: Callable[..., None]
):
    """Forked while a thread waits for an answer, with a lock that the child would have, too."""
    source = f"""{_BORROW}
threading.Thread(target=act, daemon=True).start()
while not (here / "pid").is_file():
    time.sleep(0.05)
if not os.fork():
    (here / "child").write_text(str(os.getpid()))
    companion.run_command(python, ["-"], here, here / "other.txt")  # by one of its own
    (here / "free").touch()
    time.sleep(300)
time.sleep(300)
"""
    program = start_program(source, "spawn", str(HERE))
    wait_until((program.folder / "free").is_file, 60, "the child has gone on")
    child = int((program.folder / "child").read_text())
    pid = int((program.folder / "pid").read_text())
    server = psutil.Process(pid).ppid()
    os.kill(program._process.pid, signal.SIGKILL)
    wait_until(lambda: not _is_running(server), 20, "its process has ended")
    assert not _is_running(pid)
    assert _is_running(child)


def test_a_lock_that_another_thread_has_is_free_in_a_forked_child():
    def hold() -> None:
        with module._lock:
            held.set()
            time.sleep(0.5)

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        os._exit(0 if module._lock.acquire(timeout=5) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()


def test_a_python_without_archngv_is_told_with_what_may_be_the_reason(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "_WAY", "fork")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    with pytest.raises(CompanionError, match=r"No module named 'archngv'$"):
        Companion(HERE)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other/lib")
    with pytest.raises(CompanionError, match="'archngv'  LD_LIBRARY_PATH may lead"):
        Companion(HERE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo Please install from source. >&2; exit 3", "it ended with 3"),
        ("echo 'python: error while loading shared libraries: libx.so' >&2; exit 127", "libx.so"),
        ("exit 0", "it ended with 0"),
    ],
)
def test_a_python_that_ends_at_once_is_told(tmp_path: Path, source: str, expected: str):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{source}\n")
    python.chmod(0o755)
    with pytest.raises(CompanionError, match=expected):
        Companion(python)
    with pytest.raises(CompanionError, match="cannot be started"):
        Companion(tmp_path / "gone")


def test_nothing_of_this_python_leaks_into_another_one(monkeypatch: pytest.MonkeyPatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/foreign")
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = make_environment()
    assert "/foreign" not in found.values()
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["HDF5_USE_FILE_LOCKING"] == "FALSE"
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    assert make_environment()["HDF5_USE_FILE_LOCKING"] == "TRUE"


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
