"""Pools that outlive runs, by ``nipype-blm pool``, on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from children import hear_signals
from nipype import Function, Node, Workflow
from nipype.pipeline.engine.utils import load_resultfile

from nipype_blm.cli.main import main
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks import poolfile

# What a test waits for takes seconds; this is for a machine that is busy.
TIME_LIMIT = 180


def start_process(*arguments, folder, **options):
    """Start ``nipype-blm pool``; its output is text."""
    return start_command("pool", *arguments, folder=folder, **options)


def start_command(*arguments, folder, **options):
    """Start ``nipype-blm``; its output is text."""
    return subprocess.Popen(
        [sys.executable, "-m", "nipype_blm.cli.main", *map(str, arguments)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    """Return the exit code, the output and the errors."""
    try:
        out, err = process.communicate(timeout=TIME_LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_until(condition, what, seconds_between=0.1):
    end = time.monotonic() + TIME_LIMIT
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {TIME_LIMIT} s in vain until {what}")
        time.sleep(seconds_between)


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Pool:
    """A pool in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "pool.json"
        self.logs = folder / "pool_logs"
        self.processes = []

    def command(self, action, *arguments, folder=None):
        return finish(self.begin(action, *arguments, folder=folder))

    def begin(self, action, *arguments, folder=None, **options):
        folder = folder or self.folder
        return start_process(action, "--pool", self.file, *arguments, folder=folder, **options)

    def begin_list(self, commands, *options, folder=None):
        """Start ``nipype-blm commands`` on the pool."""
        given = ["commands", commands, "--pool", self.file, *options]
        return start_command(*given, folder=folder or self.folder)

    def run_list(self, commands, *options, folder=None):
        return finish(self.begin_list(commands, *options, folder=folder))

    def start(self, n_workers, *options):
        """Start the pool."""
        code, _, err = self.command("start", "--n-workers", n_workers, *options)
        assert code == 0, err
        self.processes = [psutil.Process(json.loads(self.file.read_text())["pid"])]

    def wait_for_workers(self, n_workers):
        """Return what the status is once the workers have come."""
        status = ""

        def has_workers():
            nonlocal status
            code, status, err = self.command("status")
            assert code == 0, err
            return f"\n{n_workers} workers" in status

        wait_until(has_workers, "the workers have come")
        self.note_children()
        assert len(self.processes) > 1 + n_workers  # also Dask's nanny
        return status

    def note_children(self):
        with suppress(psutil.NoSuchProcess):
            self.processes += self.processes[0].children(recursive=True)

    def write_list(self, *lines):
        path = self.folder / "commands.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    @property
    def has_ended(self):
        return not any(map(is_alive, self.processes))

    def find_processes(self):
        """Return all processes that run in the folder of the pool, with their command lines."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.cwd() == str(self.folder):
                    found.append((process, process.cmdline()))
        return found

    def kill(self):
        """End what is left, whatever has become of it."""
        for server in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.file) in server.cmdline():
                    self.processes += [*server.children(recursive=True), server]
        for process in self.processes:
            with suppress(psutil.Error):  # also one whose number has been used again
                process.kill()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two workers, for all tests that leave them."""
    found = Pool(tmp_path_factory.mktemp("pool"))
    try:
        found.start(2)
        found.status = found.wait_for_workers(2)
        yield found
    finally:
        found.kill()


@pytest.fixture
def own_pool(tmp_path):
    """A pool that is not started yet, to be ended by the test."""
    found = Pool(tmp_path)
    yield found
    found.kill()


# -- A pool that stays ---------------------------------------------------------------------


def test_only_the_owner_can_read_the_keys_of_a_pool(pool):
    files = [path for path in pool.folder.rglob("*") if path.is_file()]
    with_keys = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert pool.file in with_keys
    assert {oct(path.stat().st_mode & 0o777) for path in with_keys} == {"0o600"}


def test_a_second_pool_by_the_same_file_is_refused(pool):
    before = pool.file.read_bytes()
    code, _, err = pool.command("start")
    assert code == 2
    assert f"{pool.file} names a pool already" in err
    assert "nipype-blm pool stop" in err
    assert pool.file.read_bytes() == before


def test_status_tells_where_a_pool_is_and_its_workers(pool):
    first, counts, *workers = pool.status.splitlines()
    assert f"process {pool.processes[0].pid} on {os.uname().nodename}" in first
    assert counts == "2 workers, 0 of them busy, 0 nodes handed out"
    assert len(workers) == 2
    assert all("127.0.0.1" in worker and "GiB" in worker for worker in workers)


def test_a_list_of_commands_runs_in_the_folder_of_the_caller(pool, tmp_path):
    """Which is not that of the pool or of the list."""
    caller = tmp_path / "the caller's folder"
    caller.mkdir()
    bad = "echo bad >> starts; echo to stderr >&2; test -e mended"
    lines = ['echo good >> starts; echo "it\'s $((6 * 7))"', bad, "echo other >> starts; pwd"]
    commands = pool.write_list("# a comment", lines[0], "", *lines[1:])
    out = tmp_path / "out"

    def run():
        found = pool.run_list(commands, "--out", out, "--keep-logs", folder=caller)
        return *found, sorted((caller / "starts").read_text().split())

    code, text, err, starts = run()
    assert code == 1
    assert "1 of 3 commands failed" in err
    assert "line 4, return code 1: to stderr" in err
    assert starts == ["bad", "good", "other"]
    log = (out / "logs" / "done.log").read_text()
    assert f"$ {lines[0]}\nit's 42\n" in log
    assert f"$ {lines[2]}\n{caller}\n" in log

    (caller / "mended").touch()
    code, text, err, starts = run()
    assert code == 0, err
    assert "3 of 3 commands done, 2 of them by an earlier run." in text
    assert starts == ["bad", "bad", "good", "other"]
    assert run()[0] == 0
    assert sorted((caller / "starts").read_text().split()) == starts


@pytest.mark.parametrize("name", ["pool", "cluster"])
def test_the_old_words_for_lists_say_the_new_ones(name, capsys):
    arguments = ["--pool", "/x/pool.json", "list.txt", "--work-dir", "w", "--check"]
    assert main([name, "run", *arguments]) == 2
    words = "`nipype-blm commands list.txt --pool /x/pool.json --out w`"
    assert words in capsys.readouterr().err
    assert main([name, "run"]) == 2
    assert "nipype-blm commands --pool" in capsys.readouterr().err


def test_two_lists_run_on_a_pool_at_once(pool, tmp_path):
    """Each waits for the other one."""
    processes = []
    for mine, other in (("a", "b"), ("b", "a")):
        commands = tmp_path / f"{mine}.txt"
        commands.write_text(f"touch {mine}; until test -e {other}; do sleep 0.1; done\n")
        processes.append(pool.begin_list(commands, folder=tmp_path))
    for process in processes:
        code, out, err = finish(process)
        assert code == 0, err
        assert "1 of 1 command done" in out


def test_nodes_import_what_lies_beside_their_script_and_not_in_the_folder_of_the_pool(
    pool, tmp_path, monkeypatch
):
    for folder in (pool.folder, tmp_path):
        (folder / "beside_the_script.py").write_text(f"FOLDER = {str(folder)!r}\n")

    def find_folder(x):
        from beside_the_script import FOLDER

        return FOLDER

    node = Node(Function(function=find_folder, output_names=["out"]), name="node")
    node.inputs.x = 1
    workflow = Workflow("wf", base_dir=str(tmp_path))
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path)}
    workflow.add_nodes([node])
    monkeypatch.syspath_prepend(tmp_path)
    workflow.run(plugin=DaskPlugin({"scheduler_file": pool.file}))
    result = tmp_path / "wf" / "node" / "result_node.pklz"
    assert load_resultfile(result).outputs.out == str(tmp_path)


def test_a_model_fitted_on_a_pool_has_the_maps_of_a_local_run_bit_for_bit(pool, study):
    # Given batches and blocks are the same for both, so that sums are formed in the same order.
    expected = study.maps_of(images_per_batch=5, voxels_per_block=10)
    arguments = study.write("args.yml", yaml.safe_dump({"scheduler_file": str(pool.file)}))
    result = study.run(
        *("--plugin", "Dask", "--plugin-args", arguments),
        outdir="pooled",
        images_per_batch=5,
        voxels_per_block=10,
    )
    assert result.code == 0, result.err
    study.outdir = study.folder / "pooled"
    found = study.maps()
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_pool_without_tls_says_so_and_is_used_by_those_only_who_allow_it(own_pool, tmp_path):
    arguments = tmp_path / "args.yml"
    arguments.write_text("security: false\n")
    code, out, err = own_pool.command("start", "--n-workers", 1, "--plugin-args", arguments)
    assert (code, "is ready" in out) == (0, True), err
    assert "security is false" in err
    assert "--allow-insecure" in err
    commands = own_pool.write_list("echo done")
    for insecure, expected in ([], 2), (["--allow-insecure"], 0):
        code, out, err = own_pool.run_list(commands, *insecure)
        assert code == expected, err
        assert ("is reached without TLS" in err) == (not insecure)
    for action in ("status", "stop"):
        code, out, err = own_pool.command(action)
        assert code == 2
        assert "is reached without TLS" in err
        code, out, err = own_pool.command(action, "--allow-insecure")
        assert code == 0, err
    assert not own_pool.file.exists()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_pool_whose_file_others_can_write_is_not_used_by_a_run(pool, study, mode):
    arguments = study.write("args.yml", f"scheduler_file: {pool.file}\n")
    pool.file.chmod(mode)
    try:
        for option in ([], ["--check"]):
            result = study.run(*option, "--plugin", "Dask", "--plugin-args", arguments)
            assert result.code == 2
            [error] = result.errors
            assert f"{pool.file} is not to be trusted: others can write it" in error
        study.write("args.yml", f"scheduler_file: {pool.file}\nallow_insecure: true\n")
        result = study.run("--plugin", "Dask", "--plugin-args", arguments)
        assert result.code == 0, result.err
    finally:
        pool.file.chmod(0o600)


def test_the_log_of_a_pool_is_private_and_never_written_through_a_link(own_pool):
    """Nobody who may write in that folder can have another file of the user overwritten."""
    precious = own_pool.folder / "precious"
    precious.write_text("keep")
    log = own_pool.file.with_suffix(".log")
    log.symlink_to(precious)
    own_pool.start(1)
    assert precious.read_text() == "keep"
    assert log.stat().st_mode & 0o777 == 0o600
    assert not log.is_symlink()


# -- How a pool ends -----------------------------------------------------------------------


def test_stop_ends_all_processes_also_while_they_work(own_pool):
    own_pool.start(1)
    commands = own_pool.write_list("touch started; sleep 600", "touch started; sleep 601")
    run = own_pool.begin_list(commands, folder=own_pool.folder)
    try:
        wait_until(lambda: (own_pool.folder / "started").exists(), "the command runs")
        own_pool.note_children()
        assert any("sleep" in process.name() for process in own_pool.processes)
        code, out, err = own_pool.command("stop")
        assert code == 0, err
        assert "has ended" in out
        assert not own_pool.file.exists()
        wait_until(lambda: own_pool.has_ended, "no process is left")
        code, out, err = finish(run)
        assert code == 1
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("error: The pool at ")
        assert "is gone; start it again" in err
    finally:
        run.kill()


def test_workers_of_a_pool_that_was_killed_end_and_its_commands_say_so(
    own_pool, monkeypatch, capsys
):
    own_pool.start(1)
    own_pool.wait_for_workers(1)
    own_pool.processes[0].send_signal(signal.SIGKILL)
    wait_until(lambda: own_pool.has_ended, "the workers have ended")
    monkeypatch.setattr(poolfile, "_SECONDS_TO_CONNECT", 1)
    capsys.readouterr()
    assert main(["pool", "status", "--pool", str(own_pool.file)]) == 2
    error = capsys.readouterr().err
    assert f"The pool of {own_pool.file} is gone" in error
    assert "nipype-blm pool start" in error
    assert main(["pool", "start", "--pool", str(own_pool.file)]) == 2
    assert "If it is long dead, remove the file." in capsys.readouterr().err


def test_a_pool_that_ends_leaves_the_file_of_another_one(own_pool):
    own_pool.start(1)
    own_pool.note_children()
    other = json.loads(own_pool.file.read_text()) | {"pid": os.getpid()}
    own_pool.file.unlink()
    own_pool.file.write_text(json.dumps(other))
    own_pool.processes[0].terminate()
    wait_until(lambda: own_pool.has_ended, "no process is left")
    assert json.loads(own_pool.file.read_text()) == other


@pytest.mark.parametrize("moment", ["process", "workers"])
def test_ctrl_c_while_a_pool_starts_leaves_no_pool(own_pool, moment):
    process = own_pool.begin(
        "start",
        "--n-workers",
        "1",
        start_new_session=True,
        preexec_fn=hear_signals,
    )

    def has_process():
        return any("nipype_blm.tasks.service" in words for _, words in own_pool.find_processes())

    signs = {"process": has_process, "workers": own_pool.logs.exists}
    try:
        wait_until(signs[moment], f"the {moment} of the pool start", seconds_between=0.01)
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = finish(process)
        assert code == 130, err
        assert err.startswith("Interrupted.")
        wait_until(lambda: not own_pool.find_processes(), "no process is left")
        assert not own_pool.file.exists()
    finally:
        process.kill()


def test_a_pool_without_work_ends_by_itself_and_has_made_a_private_folder(own_pool):
    own_pool.file = own_pool.folder / "new" / "pool.json"
    own_pool.start(1, "--end-after", "6s")
    assert own_pool.file.parent.stat().st_mode & 0o777 == 0o700

    def has_ended():
        own_pool.note_children()
        return own_pool.has_ended

    wait_until(has_ended, "no process is left")
    assert len(own_pool.processes) > 1
    assert not own_pool.file.exists()


# -- Bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "--cluster", "cloud"], ["'cloud' is not a cluster type", "slurm"]),
        (["start", "--end-after", "nonsense"], ["--end-after nonsense", "90s, 30m or 1h"]),
        (["start", "--n-workers", "0"], ["n_workers is 0", "greater than or equal to 1"]),
        (["status"], ["pool.json cannot be read", "nipype-blm pool start"]),
        (["stop"], ["pool.json cannot be read", "nipype-blm pool start"]),
    ],
    ids=lambda words: words[0] if words[0] in ("status", "stop") else words[-1],
)
def test_bad_input_is_one_clear_error(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["pool", *arguments, "--pool", "pool.json"]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert [word for word in words if word not in error] == []
    assert not Path("pool.json").exists()


def test_a_pool_whose_folder_cannot_be_made_is_one_clear_error(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["pool", "start", "--pool", str(file / "below" / "pool.json")]) in (1, 2)
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert str(file) in error


def test_a_file_that_names_no_pool_is_refused(tmp_path, capsys):
    path = tmp_path / "pool.json"
    path.write_text('{"workers": 2}')
    assert main(["pool", "status", "--pool", str(path)]) == 2
    assert f"{path} does not name a pool" in capsys.readouterr().err
