"""Commands in a shell: what they have, what they leave, and how they end."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from children import Program

from nipype_blm.tasks.shell import TIMED_OUT, Shell, StoppedError, find_shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with Shell(str(tmp_path), {"COLOUR": "blue"}) as shell:
        yield shell


@pytest.mark.parametrize(
    ("text", "code", "stdout", "stderr"),
    [
        ('echo $((6 * 7)) "it\'s"; echo b >&2; exit 3', 3, "42 it's\n", "b\n"),
        ("echo $COLOUR", 0, "blue\n", ""),
        ("-n", 127, "", None),
        ("kill -9 $$", 128 + signal.SIGKILL, "", ""),
        ("printf '\\351'", 0, "\\xe9", ""),
    ],
)
def test_a_command_ends_with_its_code_and_what_it_printed(
    shell: Shell, text: str, code: int, stdout: str, stderr: str | None
) -> None:
    ended = shell.run(text)
    assert (ended.returncode, ended.stdout) == (code, stdout)
    assert stderr in (None, ended.stderr)
    assert shell.run("true")[::2] == (0, "")  # nothing of the one before is left


def test_a_command_has_its_folder_and_nothing_to_read(shell: Shell, tmp_path: Path) -> None:
    """Programs that read their input, as ssh and ffmpeg do, wait for nobody."""
    assert shell.run("pwd; cat; read x || echo empty").stdout == f"{tmp_path}\nempty\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("true", 0),
        ("false", 1),
        ("printenv COLOUR", 0),
        ("COLOUR=red printenv COLOUR", 0),
        ("./script a  b", 0),
        ("./script a=1 --b=c:d,e@f%g+h", 0),
        ("./plain a", 126),
        ("./none", 127),
        ("echo a\\b", 0),
        ("time true", 0),
        ("~/none", 127),
        ("exported a", 0),
    ],
)
def test_programs_that_are_started_without_a_shell_do_what_they_do_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int
) -> None:
    """Also a script without a first line that names its program, and a function."""
    for name, mode in (("script", 0o755), ("plain", 0o644)):
        (tmp_path / name).write_text('printf "<%s>" "$@"; echo "$COLOUR" >&2\n')
        (tmp_path / name).chmod(mode)
    monkeypatch.setenv("BASH_FUNC_exported%%", "() { echo function $1; }")
    command = [find_shell(), "-c", text]
    env = {**os.environ, "COLOUR": "blue"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    with Shell(str(tmp_path), {"COLOUR": "blue"}) as shell:
        ended = shell.run(text)
    assert ended.returncode == done.returncode == code
    assert ended.stdout == done.stdout
    if text != "time true":
        assert ended.stderr == done.stderr


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_function_goes_before_a_program_of_its_name_as_it_does_in_bash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It was exported, or stands in the file that bash reads first."""
    body = "() { echo function $1; }"
    (tmp_path / "functions").write_text(f"printenv {body}\n")
    if place == "environment":
        monkeypatch.setenv("BASH_FUNC_printenv%%", body)
    else:
        monkeypatch.setenv("BASH_ENV", str(tmp_path / "functions"))
    with Shell(str(tmp_path), {}) as shell:
        assert shell.run("printenv PATH").stdout == "function PATH\n"


def test_a_folder_that_a_machine_has_not_is_no_error_of_the_command(tmp_path: Path) -> None:
    with (
        Shell(str(tmp_path / "none"), {}) as shell,
        pytest.raises(FileNotFoundError, match="none"),
    ):
        shell.run("true")


def test_of_a_long_output_start_and_end_are_kept(shell: Shell) -> None:
    ended = shell.run("echo start; head -c 5000000 /dev/zero | tr '\\0' x; echo end")
    assert len(ended.stdout) < 2**20 + 100
    assert ended.stdout.startswith("start\nxxx")
    assert ended.stdout.endswith("xxxend\n")
    assert "\n... 3,951,434 bytes ...\n" in ended.stdout  # 5,000,010 - 2**20


def test_what_is_left_in_the_background_ends_with_its_command(
    shell: Shell, tmp_path: Path, wait_until: Callable
) -> None:
    assert shell.run("sleep 600 & echo $! > pid").returncode == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid), 30, "the sleep has ended")


def test_what_has_left_its_command_prints_into_no_other(
    shell: Shell,
) -> None:
    """A process with a session of its own goes on, as `setsid` is there for."""
    wait = "until test -e {}; do sleep 0.01; done"
    left = f"touch left; {wait.format('go')}; echo late; echo late >&2; touch end"
    assert shell.run(f"setsid sh -c '{left}' & {wait.format('left')}; echo 1").stdout == "1\n"
    ended = shell.run(f"touch go; {wait.format('end')}; echo 2")
    assert (ended.stdout, ended.stderr) == ("2\n", "")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_that_takes_too_long_ends_with_all_that_it_started(
    tmp_path: Path, wait_until: Callable
) -> None:
    with Shell(str(tmp_path), {}, timeout_s=0.3) as shell:
        ended = shell.run("(sleep 600; true) & echo $! > pid; echo before >&2; wait")
        assert ended.returncode == TIMED_OUT
        assert ended.stderr == "timeout: it was ended after 0.3 s\nbefore\n"
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not is_running(pid), 30, "all has ended")
        assert shell.run("true").returncode == 0


def test_a_shell_that_is_told_to_stop_ends_its_command_and_runs_no_other(
    shell: Shell, tmp_path: Path, wait_until: Callable
) -> None:
    def stop() -> None:
        wait_until((tmp_path / "pid").exists, 30, "the command runs")
        shell.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(StoppedError):
        shell.run("echo $$ > pid; sleep 600")
    with pytest.raises(StoppedError):
        shell.run("touch ran")
    assert not (tmp_path / "ran").exists()


PROGRAM = """
import sys
from nipype_blm.tasks.shell import Shell

with Shell(sys.argv[1], {}) as shell:
    shell.run("true")
    shell.run("sleep 600 & echo $! $$ > pids; wait")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_ends_with_the_process_that_started_it(
    tmp_path: Path, start_program: Callable[..., Program], wait_until: Callable, number: int
) -> None:
    program = start_program(PROGRAM, str(tmp_path))
    pids = tmp_path / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 30, "it runs")
    started = [int(pid) for pid in pids.read_text().split()]
    assert all(map(is_running, started))
    os.kill(program._process.pid, number)
    wait_until(lambda: not any(map(is_running, started)), 30, "nothing is left")


DIES_IN_BETWEEN = """
import os, signal, subprocess, sys
from nipype_blm.tasks.shell import Shell

start = subprocess.Popen

def start_and_die(words, **options):
    process = start(words, **options)
    if "300" in words:
        with open("pids", "a") as file:
            file.write(f"{process.pid} end\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return process

os.chdir(sys.argv[1])
with Shell(sys.argv[1], {}) as shell:
    left = "setsid sh -c 'echo $$ > pids; exec sleep 600' & "
    shell.run(left + "until test -s pids; do sleep 0.01; done")
    subprocess.Popen = start_and_die
    shell.run("sleep 300")
"""


def test_a_command_that_has_just_started_ends_with_the_process_that_started_it(
    tmp_path: Path, start_program: Callable[..., Program], wait_until: Callable
) -> None:
    """Before its group could be noted; what an earlier one has left with `setsid` goes on."""
    start_program(DIES_IN_BETWEEN, str(tmp_path))
    pids = tmp_path / "pids"
    wait_until(lambda: pids.exists() and "end" in pids.read_text(), 30, "it has started")
    left, started = map(int, pids.read_text().split()[:2])
    try:
        wait_until(lambda: not is_running(started), 30, "it is gone")
        assert is_running(left)
    finally:
        os.kill(left, signal.SIGKILL)
