"""Keys of pools are in folders that only their user can enter, and do not outlive them for long."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask.config
import pytest
from distributed import Security

from nipype_blm.errors import InputError
from nipype_blm.tasks.keys import make_key_folder, write_keys
from nipype_blm.tasks.local import LocalJob
from nipype_blm.tasks.options import Resources, parse_options
from nipype_blm.tasks.pools import open_pool

POOL = """
import sys
from pathlib import Path
from nipype_blm.tasks.options import Resources, parse_options
from nipype_blm.tasks.pools import open_pool

options = parse_options({"n_procs": 1, "memory_gb": 1})
pool = open_pool(options, Resources(1, 0.0), Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
pool.close()
"""


def list_keys(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and b" KEY-" in path.read_bytes()]


def start_pool(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", POOL, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_keys_are_private_while_a_pool_lives_and_gone_with_it(tmp_path: Path) -> None:
    options = parse_options({"n_procs": 1, "memory_gb": 1})
    pool = open_pool(options, Resources(1, 0.0), tmp_path / "logs")
    try:
        [key] = list_keys(tmp_path)
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
    finally:
        pool.close()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("how", [signal.SIGKILL, None], ids=["killed", "closed"])
def test_keys_of_a_pool_that_was_killed_are_removed_by_the_next_and_no_others(
    tmp_path: Path, how: signal.Signals | None
) -> None:
    """The next pool with the same folder finds those only whose process has ended here."""
    first, second = start_pool(tmp_path), start_pool(tmp_path)
    try:
        kept = list_keys(tmp_path)
        assert len(kept) == 2
        if how is None:
            first.communicate()
            assert len(list_keys(tmp_path)) == 1
        else:
            first.send_signal(how)
            first.wait()
            assert list_keys(tmp_path) == kept
        start_pool(tmp_path).communicate()
        [key] = list_keys(tmp_path)
        assert f"-{second.pid}-" in key.parent.name
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def end_a_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["host", "name", "live", "user", "link", "file"])
def test_what_may_be_in_use_or_is_of_others_stays(tmp_path: Path, kind: str) -> None:
    own = make_key_folder(tmp_path)
    pid = os.getppid() if kind == "live" else end_a_process()
    left = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{pid}-"))
    if kind == "host":
        left = left.with_name(left.name.replace(os.uname().nodename, "elsewhere"))
    elif kind == "name":
        left = left.with_name(f"{left.name}.saved")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    if kind == "link":
        left.symlink_to(precious)
    elif kind == "file":
        left.touch()
    else:
        left.mkdir()
    if kind == "user":
        if os.getuid() != 0:
            pytest.skip("not root: only root can give a folder to another user")
        os.chown(left, 12345, -1)
    make_key_folder(tmp_path)
    assert os.path.lexists(left)
    assert (precious / "file").exists()
    assert own.exists()


def test_what_a_process_of_this_host_has_left_is_removed(tmp_path: Path) -> None:
    own = make_key_folder(tmp_path)
    left = own.rename(own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{end_a_process()}-")))
    (left / "tls_worker_key.pem").write_text("a key")
    make_key_folder(tmp_path)
    assert not left.exists()


def test_paths_of_keys_are_written_as_a_shell_takes_them(tmp_path: Path) -> None:
    folder = tmp_path / "with $HOME and 'quotes'"
    folder.mkdir()
    text, files = Security.temporary(), Security(tls_ca_file="/a b", require_encryption=True)
    found = write_keys(text, folder)
    [path] = shlex.split(found.tls_worker_key)
    assert Path(path).read_text() == text.tls_worker_key
    assert write_keys(files, folder).tls_ca_file == "'/a b'"
    assert write_keys(files, folder).tls_worker_key is None


def test_a_folder_for_keys_may_be_given_with_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    given = {"n_procs": 1, "memory_gb": 1}
    section = dask.config.get(f"jobqueue.{LocalJob.config_name}")
    monkeypatch.setitem(section, "shared-temp-directory", "$SHARED")
    pool = open_pool(parse_options(given), Resources(1, 0.0), tmp_path / "logs")
    try:
        [key] = list_keys(tmp_path)
        assert key.is_relative_to(tmp_path / "shared")
    finally:
        pool.close()


@pytest.mark.parametrize(
    "make",
    [lambda _: None, Path.touch, lambda path: path.symlink_to(path.name)],
    ids=["nothing", "file", "loop"],
)
def test_a_folder_for_keys_that_is_none_is_one_error(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "keys")
    with pytest.raises(InputError, match=rf"keys of jobs, {tmp_path}/keys, "):
        make_key_folder(tmp_path / "keys")
