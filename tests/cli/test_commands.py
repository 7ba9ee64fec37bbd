"""``nipype-blm commands``: lists of commands, as people have them, and as they are killed."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from children import hear_signals

from nipype_blm.cli.main import main

TIME_LIMIT = 180
N_PROCS = 2


class Desk:
    """A folder where lists are run."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys
        self.processes = []

    def write(self, *lines, name="list.txt"):
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def say(self, *arguments):
        """Run the command here; return its code, output and errors."""
        self._capsys.readouterr()
        try:
            code = main(["commands", *map(str, arguments)])
        except SystemExit as exit_:
            code = exit_.code
        out, err = self._capsys.readouterr()
        return code, out, err

    def begin(self, *arguments):
        """Start the command as a process."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nipype_blm.cli.main", "commands", *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=hear_signals,
        )
        self.processes.append(process)
        return process

    def count_runs(self):
        path = self.folder / "ran"
        return Counter(path.read_text().split() if path.exists() else [])

    def read_ended(self, out="list.txt.out"):
        """Return the words of the commands whose end is noted."""
        ended = set()
        for path in [*Path(self.folder, out).rglob("*.jsonl")]:
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # the driver has just taken it over
                return self.read_ended(out)
            for line in content.split(b"\n")[:-1]:
                entry = json.loads(line)
                if "command" in entry:
                    ended.add(entry["command"].split(";")[-1].split()[1])
        return ended


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    desk = Desk(tmp_path, capsys)
    yield desk
    for process in desk.processes:
        process.kill()
        process.communicate()


def finish(process):
    try:
        text, _ = process.communicate(timeout=TIME_LIMIT)
    finally:
        process.kill()
    return process.returncode, text


def list_numbered(n):
    """Return commands that note their end; the word after the last ; tells them apart."""
    return [f"sleep 0.02; echo {i} >> ran" for i in range(n)]


# -- What is said ----------------------------------------------------------------------------


def test_a_list_leaves_its_table_beside_it_and_says_what_is_done(desk):
    path = desk.write("# all", "echo a", "", "echo b")
    code, out, _ = desk.say(path, "--n-procs", N_PROCS)
    assert code == 0
    assert out.splitlines() == ["2 of 2 commands done.", f"{path}.out/table.tsv"]
    assert desk.say(path)[1].startswith("2 of 2 commands done, 2 of them by an earlier run.")
    assert desk.say(path, "--quiet")[1:] == ("", "")


def test_failures_are_one_error_with_their_count_and_what_they_said(desk):
    path = desk.write("true", "echo no voxel >&2; exit 2", "exit 3")
    code, _, err = desk.say(path)
    assert code == 1
    assert "error: 2 of 3 commands failed.  What the first ones said:" in err
    assert "line 2, return code 2: no voxel" in err
    assert "line 3, return code 3: nothing" in err
    assert "Traceback" not in err
    assert Path(f"{path}.out/failed_commands").read_text() == "echo no voxel >&2; exit 2\nexit 3\n"


def test_check_says_what_would_run_and_runs_nothing(desk):
    path = desk.write("echo a >> ran", *[f"echo b{i} >> ran" for i in range(30)])
    desk.say(desk.write("echo a >> ran", name="first"), "--out", "out")
    code, out, _ = desk.say(path, "--out", "out", "--check")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "30 commands of 31 would run, 1 are done"
    assert lines[1:3] == ["echo b0 >> ran", "echo b1 >> ran"]
    assert lines[-1].endswith("... and 10 more")
    assert desk.count_runs() == Counter("a")
    assert desk.say(path, "--check")[0] == 0
    assert not Path("list.txt.out").exists()


def test_progress_is_that_of_all_commands_and_of_an_earlier_run(desk):
    desk.say(desk.write(*list_numbered(4), name="first"), "--out", "out")
    _, _, err = desk.say(desk.write(*list_numbered(10)), "--out", "out")
    assert err.splitlines()[0] == "commands done by an earlier run: 4 of 10"
    assert err.splitlines()[-1] == "running commands: 10 of 10"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.txt"], ["none.txt cannot be read"]),
        (["empty.txt"], ["empty.txt has no command", "one a line"]),
        (["list.txt", "--n-procs", "0"], ["--n-procs 0", "1 or more"]),
        (["list.txt", "--retries", "-1"], ["--retries -1", "0 or more"]),
        (["list.txt", "--timeout", "soon"], ["--timeout soon", "90s, 30m or 2h"]),
        (["list.txt", "--timeout", "0"], ["--timeout 0"]),
        (["list.txt", "--env", "1=2"], ["--env", "NAME=VALUE"]),
        (["list.txt", "--env", "NO_SUCH_VARIABLE"], ["NO_SUCH_VARIABLE", "no such variable"]),
        (["list.txt", "--cwd", "none"], ["none is no folder"]),
        (["list.txt", "--pool", "pool.json"], ["pool.json cannot be read", "pool start"]),
        (["list.txt", "--pool", "p.json", "--cluster", "slurm"], ["leave out --cluster"]),
        (["list.txt", "--cluster", "cloud"], ["'cloud' is not a cluster type"]),
        (["list.txt", "--cluster", "local", "--n-procs", "2"], ["give --n-workers"]),
        (["list.txt", "--plugin-args", "none.yml"], ["none.yml"]),
        (["list.txt", "--done-glob", "*.nii"], ["is the same for all commands"]),
        (["list.txt", "--out", "list.txt"], ["list.txt", "is a file"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_clear_error_and_nothing_runs(desk, arguments, words):
    desk.write("touch was_run; echo a")
    desk.write("", "# nothing", name="empty.txt")
    code, _, err = desk.say(*arguments)
    assert code == 2
    [error] = err.splitlines()
    assert error.startswith("error: ")
    assert [word for word in words if word not in error] == []
    assert not Path("was_run").exists()
    if "--out" not in arguments:
        assert desk.say(*arguments, "--check") == (2, "", err)
    assert not Path("list.txt.out", "journal.jsonl").exists()


def test_variables_reach_commands_and_their_values_are_told_nowhere(desk, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret one")
    path = desk.write('printf "%s" "$TOKEN$A" > given', "exit 3")
    _, out, err = desk.say(path, "--env", "TOKEN", "--env", "A=secret=2", "--keep-logs")
    assert Path("given").read_text() == "secret onesecret=2"
    kept = [p.read_text() for p in Path("list.txt.out").rglob("*") if p.is_file()]
    assert not any("secret" in text for text in [*kept, out, err])


def test_dask_is_not_imported_where_no_pool_is_asked_for(desk):
    desk.write("true")
    program = (
        "import sys; from nipype_blm.cli.main import main; "
        "main(['commands', 'list.txt', '--quiet']); "
        "sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
    assert Path("list.txt.out/table.tsv").exists()


# -- Killed, interrupted, twice at once ------------------------------------------------------


def test_a_driver_that_is_killed_leaves_no_process_and_no_finished_command_runs_twice(
    desk, wait_until
):
    desk.write(*list_numbered(300))
    process = desk.begin("list.txt", "--n-procs", N_PROCS)
    wait_until(lambda: len(desk.read_ended()) > 120, 60, "more than a third is done")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, children)), 30, "nothing is left")
    ended = desk.read_ended()
    assert 120 < len(ended) < 300
    code, text = finish(desk.begin("list.txt", "--n-procs", N_PROCS))
    assert code == 0, text
    assert "300 of 300 commands done" in text
    runs = desk.count_runs()
    assert set(runs) == {str(i) for i in range(300)}
    assert {runs[word] for word in ended} == {1}
    # Those that had just ended, or were to be noted, when the driver was killed.
    assert sum(n > 1 for n in runs.values()) <= N_PROCS


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_of_a_pool_that_is_ended_loses_nothing_that_workers_have_noted(
    desk, wait_until, number
):
    desk.write(*list_numbered(300))
    options = ("list.txt", "--cluster", "local", "--n-workers", N_PROCS)
    process = desk.begin(*options)
    wait_until(lambda: len(desk.read_ended()) > 100, 90, "a third is done")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    finish(process)
    wait_until(lambda: not any(map(is_alive, children)), 60, "the workers have ended")
    ended = desk.read_ended()
    assert 100 < len(ended) < 300
    code, text = finish(desk.begin(*options))
    assert code == 0, text
    desk.folder.joinpath("list.txt.out", "workers").rename("logs_of_workers")
    assert desk.say(*options)[0] == 0
    assert not Path("list.txt.out", "workers").exists()  # nothing to do: no pool is started
    runs = desk.count_runs()
    assert set(runs) == {str(i) for i in range(300)}
    assert {runs[word] for word in ended} == {1}
    assert sum(n > 1 for n in runs.values()) <= N_PROCS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_list_ends_its_commands_and_goes_on(desk, wait_until, number):
    desk.write("echo a >> ran", "test -e go || { touch waits; sleep 600; }", "echo b >> ran")
    process = desk.begin("list.txt", "--n-procs", 1)
    wait_until(Path("waits").exists, 60, "the second command runs")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    code, text = finish(process)
    assert code == 128 + number
    assert text.splitlines()[-1] == "Interrupted. The same command goes on from where it was."
    assert "Traceback" not in text
    assert not any(map(is_alive, children))
    Path("go").touch()
    code, text = finish(desk.begin("list.txt"))
    assert code == 0, text
    assert desk.count_runs() == Counter("ab")
    rows = Path("list.txt.out/table.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[4] for row in rows] == ["1", "2", "1"]  # attempts


def test_a_second_run_at_the_same_time_is_refused(desk, wait_until):
    desk.write("touch waits; until test -e go; do sleep 0.05; done")
    process = desk.begin("list.txt")
    wait_until(Path("waits").exists, 60, "the command runs")
    code, _, err = desk.say("list.txt")
    assert code == 2
    assert "is in use by another run" in err
    Path("go").touch()
    assert finish(process)[0] == 0


# -- A list of TBSS ----------------------------------------------------------------------------

FSL_REG = """#!/bin/sh
# fsl_reg input reference output options
[ -e "$1.nii.gz" ] || { echo "Cannot open volume $1 for reading!" >&2; exit 1; }
echo "$3" >> ran
echo warp > "$3_warp.nii.gz"
echo log > "$3_warp.log"
"""


@pytest.fixture
def tbss(desk, monkeypatch):
    """The folder FA, as tbss_2_reg -n leaves it, and a program with the name of FSL's."""
    tools, fa = desk.folder / "bin", desk.folder / "FA"
    for folder in (tools, fa):
        folder.mkdir()
    (tools / "fsl_reg").write_text(FSL_REG)
    (tools / "fsl_reg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    names = [f"s{i}" for i in range(1, 5)]
    lines = []
    for target in names:
        (fa / f"{target}.nii.gz").touch()
        for subject in names:
            pair = f"{subject}_to_{target}"
            (fa / f"{pair}.msf").touch()  # also of a subject to itself
            if subject != target:
                lines.append(f"fsl_reg {subject} {target} {pair} -e -FA")
    (fa / ".commands").write_text("".join(f"{line}\n" for line in lines))
    desk.folder = fa
    return desk


TBSS = ("FA/.commands", "--cwd", "FA", "--done-glob", "{3}_warp.nii*")


def test_registrations_of_tbss_are_done_when_their_warp_is_there_whatever_was_touched(tbss):
    (tbss.folder / "s2_to_s1_warp.nii.gz").write_text("of an earlier run")
    code, out, err = tbss.say(*TBSS)
    assert code == 0, err
    assert out.startswith("12 of 12 commands done, 1 of them by an earlier run.")
    assert len(tbss.count_runs()) == 11
    assert len(list(tbss.folder.glob("*_warp.nii.gz"))) == 12
    assert tbss.say(*TBSS)[1].startswith("12 of 12 commands done, 12 of them")
