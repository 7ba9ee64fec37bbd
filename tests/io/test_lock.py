"""A folder is used by one run at a time, and is free as soon as that run has ended."""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, contextmanager

import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.lock import RUN_LOCK, LockedError, hold_folders, locked

# Waiting in a test ends long after any machine is done, so that a fault is not an endless test.
LIMIT_S = 60

PREAMBLE = f"""
    import os, signal, subprocess, sys
    from contextlib import ExitStack
    from pathlib import Path
    from nipype_blm.io.lock import hold_folders, locked
    LIMIT_S = {LIMIT_S}
    path = Path(sys.argv[1])
"""
HOLD = """
    with locked(path):
        print("held", flush=True)
        sys.stdin.read()
"""
# A child that lives until its standard input ends, which outlives its parent.
FORK = """
    with locked(path):
        if os.fork() == 0:
            print("held", flush=True)
        sys.stdin.read()
        os._exit(0)
"""
# A child that leaves the lock and ends; in time, whatever happens.
FORK_ENDS = """
    with ExitStack() as stack:
        stack.enter_context(locked(path))
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            stack.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print("held", flush=True)
        sys.stdin.read()
"""
EXEC = """
    with locked(path):
        subprocess.Popen(["cat"], close_fds=False)
        print("held", flush=True)
        sys.stdin.read()
"""
WITHOUT_LOCKS = """
    import errno, fcntl
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock = flock
"""


def start(*programs, path, prefix=()):
    text = "\n".join(textwrap.dedent(program) for program in (PREAMBLE, *programs))
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", text, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holding(*programs, path):
    """Run a program that holds a lock until the context ends."""
    with start(*(programs or (HOLD,)), path=path) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def kill(process):
    process.kill()
    process.wait(LIMIT_S)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has no locks, as some shared ones of clusters."""

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=["locks", "no locks"])
def either(request):
    """Programs that come first, on a file system with or without locks; this process alike."""
    if request.param == "no locks":
        request.getfixturevalue("without_locks")
        return [WITHOUT_LOCKS]
    return []


def write_holder(path, **changes):
    """Write a lock file as this process would."""
    with locked(path):
        holder = json.loads(path.read_text())
    path.write_text(json.dumps(holder | changes))


def test_a_second_process_is_refused_and_told_of_the_first(path, either):
    with holding(*either, HOLD, path=path) as first:
        with pytest.raises(LockedError) as caught, locked(path):
            pass
        assert f"process {first.pid} on {socket.gethostname()}, started 20" in str(caught.value)


def test_a_process_that_ends_well_leaves_no_file(path, either):
    with holding(*either, HOLD, path=path) as first:
        first.stdin.close()
        assert first.wait(LIMIT_S) == 0
    assert list(path.parent.iterdir()) == []


def test_an_error_frees_the_lock_and_leaves_no_file(path, either):
    with pytest.raises(ZeroDivisionError), locked(path):
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []


def test_a_killed_process_frees_the_lock_at_once(path, either):
    with holding(*either, HOLD, path=path) as first:
        kill(first)
        with locked(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_killed_process_whose_parent_has_not_noticed_frees_the_lock(path, either):
    with holding(*either, HOLD, path=path) as first:
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
        with locked(path):
            pass


@pytest.mark.parametrize("program", [FORK, EXEC], ids=["forked", "started"])
def test_a_child_that_outlives_a_killed_process_does_not_keep_its_lock(path, program):
    with holding(program, path=path) as first:
        kill(first)
        # The child has the other end of its output open: it is alive.
        os.set_blocking(first.stdout.fileno(), False)
        with pytest.raises(BlockingIOError):
            os.read(first.stdout.fileno(), 1)
        with locked(path):
            pass


def test_a_forked_child_that_ends_early_leaves_the_lock_to_its_parent(path, either):
    """Forked by a program: a child of a worker of xdist would keep its pipes, and with them pytest.

    The same holds of any test that forks: whatever fails, nothing may outlive the tests.
    """
    with holding(*either, FORK_ENDS, path=path):
        with pytest.raises(LockedError), locked(path):
            pass
        assert path.exists()


def test_the_same_process_cannot_hold_a_lock_twice(path, either):
    with locked(path), pytest.raises(LockedError, match=str(os.getpid())), locked(path):
        pass


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": "x"}', "[1, 2]"])
def test_a_damaged_file_that_nobody_holds_is_no_lock(path, either, text):
    path.write_text(text)
    with locked(path):
        pass


def test_a_holder_that_has_no_name_yet_still_holds(path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="an unknown process"), locked(path):
            pass


def test_waiting_is_said_once_and_ends_when_the_lock_is_free(path, caplog):
    with holding(path=path) as first:

        class Free(logging.Handler):
            def emit(self, _):
                first.stdin.close()

        logger = logging.getLogger("nipype_blm.io.lock")
        handler = Free()
        logger.addHandler(handler)
        try:
            with locked(path, patience_s=LIMIT_S):
                pass
        finally:
            logger.removeHandler(handler)
    assert [f"process {first.pid} on" in record.message for record in caplog.records] == [True]


def test_a_file_that_its_holder_removes_before_it_is_locked_is_not_taken_for_a_lock(
    path, monkeypatch
):
    flock, removed = fcntl.flock, []

    def remove_first(*arguments):
        if not removed:
            path.unlink()
            removed.append(path)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(path), pytest.raises(LockedError), locked(path):
        pass


def test_without_locks_the_last_of_two_that_write_at_once_has_it(path, without_locks, monkeypatch):
    write_holder(path, pid=os.getppid(), ticks=0)
    other = path.read_text()
    path.unlink()
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(other))
    with pytest.raises(LockedError, match=f"process {os.getppid()} "), locked(path):
        pass
    assert path.read_text() == other


def test_processes_that_take_and_remove_a_lock_all_the_time_never_hold_it_together(tmp_path):
    work = """
    total = path.with_name("total")
    for _ in range(20):
        with locked(path, patience_s=60):
            n = int(total.read_text())
            total.write_text(str(n + 1))
    """
    (tmp_path / "total").write_text("0")
    with ExitStack() as stack:
        path = tmp_path / "lock"
        processes = [stack.enter_context(start(work, path=path)) for _ in range(3)]
        assert [process.wait(LIMIT_S) for process in processes] == [0] * 3
    assert (tmp_path / "total").read_text() == "60"


def test_without_locks_a_process_that_took_over_the_number_of_a_dead_one_does_not_hold(
    path, without_locks
):
    write_holder(path, ticks=1)
    with locked(path):
        pass


@pytest.fixture
def dead_pid():
    """The number of a process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(LIMIT_S)
    return process.pid


def test_without_locks_the_file_that_a_dead_process_of_this_host_left_is_no_lock(
    path, without_locks, dead_pid
):
    write_holder(path, pid=dead_pid)
    with locked(path):
        pass


@pytest.mark.parametrize("is_alive_here", [True, False])
def test_without_locks_the_file_of_another_host_is_believed_until_it_is_removed(
    path, without_locks, dead_pid, is_alive_here
):
    """Which processes run here says nothing of those of another host."""
    write_holder(path, host="elsewhere", pid=os.getpid() if is_alive_here else dead_pid)
    with pytest.raises(LockedError) as caught, locked(path):
        pass
    assert "on elsewhere, started 20" in str(caught.value)
    assert f"has certainly ended, remove {path}" in str(caught.value)
    path.unlink()
    with locked(path):
        pass


def test_with_locks_the_file_that_a_dead_process_left_on_another_host_is_not_believed(path):
    write_holder(path, host="elsewhere")
    with locked(path):
        pass


def test_without_locks_one_of_several_that_start_together_has_it(path, without_locks):
    with ExitStack() as stack:
        processes = [stack.enter_context(start(WITHOUT_LOCKS, HOLD, path=path)) for _ in range(3)]
        # One that is refused ends without a word; the other holds until its input ends.
        assert sorted(process.stdout.readline() for process in processes) == ["", "", "held\n"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "loop", "named pipe", "folder"])
@pytest.mark.parametrize("content", ["keep", json.dumps(["a holder"])])
def test_a_lock_is_a_file_of_its_own_and_never_written_elsewhere(path, either, kind, content):
    """Who may write in a shared folder cannot have a run overwrite another file of the user."""
    precious = path.with_name("precious")
    precious.write_text(content)
    targets = {"link": precious, "dangling link": path.with_name("nowhere"), "loop": path}
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(InputError) as caught, locked(path):
        pass
    assert str(path) in str(caught.value)
    assert kind not in targets or f"a symbolic link to {targets[kind]}" in str(caught.value)
    assert precious.read_text() == content
    assert not path.with_name("nowhere").exists()


def test_a_run_says_that_a_link_is_in_the_place_of_its_lock(tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / RUN_LOCK).symlink_to("precious")
    with (
        pytest.raises(InputError, match="symbolic link to precious"),
        hold_folders({"a": tmp_path}),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "keep"


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_folders_that_are_made_private_are_so_and_others_are_as_the_umask_says(tmp_path, umask):
    out, work, there = tmp_path / "out", tmp_path / "work" / "inner", tmp_path / "there"
    there.mkdir(0o755)
    folders = {"outdir": out, "work_dir": work, "there": there}
    before = os.umask(umask)
    try:
        with hold_folders(folders, private={"work_dir", "there"}):
            modes = [folder.stat().st_mode & 0o777 for folder in (out, work, work.parent, there)]
    finally:
        os.umask(before)
    assert modes == [0o777 & ~umask, 0o700, 0o777 & ~umask, 0o755]


def test_folders_are_made_and_those_left_empty_are_removed(tmp_path):
    out, work = tmp_path / "a" / "out", tmp_path / "a" / "out" / "work"
    with hold_folders({"outdir": out, "work_dir": work}):
        assert (out / RUN_LOCK).exists()
        assert (work / RUN_LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_results_stays_and_an_emptied_one_is_removed(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (work / "old").touch()
    with hold_folders({"outdir": out, "work_dir": work}):
        (out / "map").touch()
        (work / "old").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["map"]


def test_an_empty_folder_of_the_user_stays(tmp_path):
    with hold_folders({"outdir": tmp_path}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_folder_by_two_names_is_held_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with hold_folders({"outdir": tmp_path, "work_dir": tmp_path / "link"}):
        pass


@pytest.mark.parametrize("shared", ["outdir", "work_dir"])
def test_a_second_run_is_refused_by_field_and_makes_nothing(tmp_path, shared):
    first = {"outdir": tmp_path / "out1", "work_dir": tmp_path / "work1"}
    second = {"outdir": tmp_path / "out2", "work_dir": tmp_path / "work2"}
    second[shared] = first[shared]
    with hold_folders(first):
        before = set(tmp_path.rglob("*"))
        with pytest.raises(InputError) as caught, hold_folders(second):
            pass
        assert set(tmp_path.rglob("*")) == before
    message = str(caught.value)
    assert message.startswith(
        f"{shared} {first[shared]} is in use by another run: process {os.getpid()} on "
    )
    assert f"or choose another {shared}." in message


def test_a_folder_that_cannot_be_made_is_passed_over(tmp_path):
    (tmp_path / "file").touch()
    with hold_folders({"outdir": tmp_path / "file", "work_dir": tmp_path / "file" / "work"}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path, as_ordinary_user):
    (tmp_path / RUN_LOCK).touch(0o000)
    program = """
    from nipype_blm.errors import InputError
    try:
        hold_folders({"outdir": path}).__enter__()
    except InputError as error:
        print(error)
    """
    with start(program, path=tmp_path, prefix=as_ordinary_user) as process:
        assert (
            f"{tmp_path / RUN_LOCK} cannot be opened (Permission denied)" in process.stdout.read()
        )


def test_a_killed_run_leaves_its_folders_to_the_next(tmp_path):
    program = """
    with hold_folders({"outdir": path}):
        print("held", flush=True)
        sys.stdin.read()
    """
    with holding(program, path=tmp_path / "out") as first:
        with pytest.raises(InputError, match=f"process {first.pid} "):
            hold_folders({"outdir": tmp_path / "out"}).__enter__()
        kill(first)
        assert first.returncode == -signal.SIGKILL
        with hold_folders({"outdir": tmp_path / "out"}):
            pass
