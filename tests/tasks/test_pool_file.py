"""The file of a pool belongs to the process that serves the pool; those of others are refused."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Security
from nipype import IdentityInterface, Node, Workflow

from nipype_blm.cli.main import main
from nipype_blm.errors import InputError
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks import poolfile
from nipype_blm.tasks.poolfile import read_pool_file, remove_pool_file, write_pool_file

ADDRESS = "tls://127.0.0.1:1"
STRANGER = 12345  # the number of a user
# Answers whoever connects as a scheduler of Dask would, but what it sends makes a folder where it
# is read.
EVIL_SCHEDULER = """
import asyncio, os, sys
from distributed.comm import listen
from distributed.protocol import to_serialize

class Evil:
    def __reduce__(self):
        return os.makedirs, (sys.argv[1], 0o777, True)

async def answer(comm):
    print("connected", flush=True)
    while True:
        await comm.read()
        await comm.write([{"op": "stream-start", "evil": to_serialize(Evil())}])

async def serve():
    async with listen("tcp://127.0.0.1:0", answer) as listener:
        print(listener.contact_address, flush=True)
        await asyncio.sleep(600)

asyncio.run(serve())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


def refuse_links(*_: object) -> None:
    """Fail as some file systems do."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize(
    "other", ['{"address": "tls://127.0.0.1:2"}', "no pool at all"], ids=["a pool", "text"]
)
@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_a_file_that_is_there_is_never_replaced(
    path: Path, other: str, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    path.write_text(other)
    with pytest.raises(FileExistsError):
        write_pool_file(path, {"address": ADDRESS}, Security.temporary())
    assert path.read_text() == other
    assert list(path.parent.iterdir()) == [path]  # no part of one, with its keys


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_a_pool_writes_and_removes_one_file_of_its_own(
    path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    write_pool_file(path, {"address": ADDRESS}, Security.temporary())
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["address"] == ADDRESS
    assert list(path.parent.iterdir()) == [path]
    remove_pool_file(path)
    assert list(path.parent.iterdir()) == []
    remove_pool_file(path)  # somebody else has done it


@pytest.mark.parametrize(
    "change",
    [{"pid": os.getpid() + 1}, {"host": "another machine"}, {"pid": None}],
    ids=["process", "machine", "unknown"],
)
def test_the_file_of_another_pool_is_not_removed(path: Path, change: dict[str, object]) -> None:
    write_pool_file(path, {"address": ADDRESS})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    remove_pool_file(path)
    assert path.exists()


# -- Pools of others -----------------------------------------------------------------------


class Stranger:
    """A scheduler without TLS, whose answers run a program where they are read."""

    def __init__(self, folder: Path) -> None:
        self.harm = folder / "harm"
        self.process = subprocess.Popen(
            [sys.executable, "-c", EVIL_SCHEDULER, str(self.harm)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def count_connections(self) -> int:
        """End it, and return how often somebody has connected."""
        self.process.terminate()
        assert self.process.stdout is not None
        return self.process.stdout.read().count("connected")


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    found = Stranger(tmp_path)
    with found.process:
        yield found
        found.process.kill()


def run_on_plugin(path: Path) -> None:
    workflow = Workflow("wf", base_dir=str(path.parent))
    workflow.add_nodes([Node(IdentityInterface(["x"]), name="node")])
    workflow.run(plugin=DaskPlugin({"scheduler_file": path}))


def run_command(action: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        commands = path.with_name("commands.txt")
        commands.write_text("true\n")
        words = ["commands", str(commands)] if action == "commands" else ["pool", action]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            if main([*words, "--pool", str(path)]) == 2:
                raise InputError(said.getvalue())

    return run


@pytest.mark.parametrize(
    "use",
    [run_on_plugin, run_command("status"), run_command("stop"), run_command("commands")],
    ids=["plugin", "status", "stop", "commands"],
)
def test_nothing_connects_to_the_plain_scheduler_of_a_stranger(
    path: Path, stranger: Stranger, use: Callable[[Path], None]
) -> None:
    """Whoever answers as a pool sends pickles, which run any program; only who allows it gets in.

    The kind is: a file that leads a run to a process that need not be the user's own.
    """
    path.write_text(json.dumps({"address": stranger.address}))
    with pytest.raises(InputError, match="without TLS"):
        use(path)
    assert not stranger.harm.exists()
    assert stranger.process.poll() is None
    assert stranger.count_connections() == 0


def test_the_stranger_of_these_tests_does_harm_where_it_is_allowed(
    path: Path, stranger: Stranger
) -> None:
    path.write_text(json.dumps({"address": stranger.address}))
    client, _ = poolfile.connect(path, allow_insecure=True)
    client.close(timeout=1)
    assert stranger.harm.exists()
    assert stranger.count_connections() > 0


def write_own(path: Path) -> None:
    write_pool_file(path, {"address": ADDRESS}, Security.temporary())


def make_writable_by_group(path: Path) -> None:
    write_own(path)
    path.chmod(0o620)


def make_writable_by_all(path: Path) -> None:
    write_own(path)
    path.chmod(0o602)


def open_the_folder(path: Path) -> None:
    write_own(path)
    path.parent.chmod(0o777)


def open_a_folder_above(path: Path) -> None:
    (path.parent / "inner").mkdir()
    write_own(path.parent / "inner" / "real.json")
    path.parent.chmod(0o777)
    path.symlink_to("inner/real.json")


def give_away(path: Path) -> None:
    write_own(path)
    try:
        os.chown(path, STRANGER, -1)
    except PermissionError:
        pytest.skip("not root: only root can give a file to another user; run the tests as root")


def link_to_one_of_a_stranger(path: Path) -> None:
    give_away(path.with_name("real.json"))
    path.symlink_to("real.json")


def link_to_one_in_an_open_folder(path: Path) -> None:
    folder = path.parent / "open"
    folder.mkdir()
    write_own(folder / "real.json")
    folder.chmod(0o777)
    path.symlink_to(folder / "real.json")


def leave_out_tls(path: Path) -> None:
    write_pool_file(path, {"address": "tcp://127.0.0.1:1"})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (give_away, f"it belongs to user {STRANGER}"),
        (make_writable_by_group, "others can write it"),
        (make_writable_by_all, "others can write it"),
        (open_the_folder, "everybody can replace what is in"),
        (open_a_folder_above, "everybody can replace what is in"),
        (link_to_one_of_a_stranger, f"it belongs to user {STRANGER}"),
        (link_to_one_in_an_open_folder, "everybody can replace what is in"),
        (leave_out_tls, "without TLS"),
    ],
)
def test_a_file_that_others_could_have_written_is_refused_unless_allowed(
    path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """Every way by which a file may name a process of somebody else."""
    make(path)
    with pytest.raises(InputError) as caught:
        read_pool_file(path)
    [problem] = caught.value.problems
    for word in (str(path), reason, "nipype-blm pool start", "allow_insecure: true"):
        assert word in problem
    assert read_pool_file(path, allow_insecure=True).address


def test_own_files_are_taken_also_in_a_folder_of_a_group_or_of_temporary_files(path: Path) -> None:
    write_own(path)
    for mode in (0o700, 0o775, 0o1777):
        path.parent.chmod(mode)
        assert read_pool_file(path).address == ADDRESS


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[]", "no mapping"),
        ("5", "no mapping"),
        ("null", "no mapping"),
        ("[" * 100_000, "no JSON"),
        ("{", "no JSON"),
        (b"\x00\xff\xfe", "no JSON"),
        (f'{{"address": "{ADDRESS}", "pid": 1{"0" * 5000}}}', "no JSON"),
        ("{}", "address"),
        ('{"address": null}', "tls://HOST:PORT as address"),
        ('{"address": ["tls://a:1"]}', "tls://HOST:PORT as address"),
        ('{"address": "http://a:1"}', "tls://HOST:PORT as address"),
        ('{"address": "inproc://1"}', "tls://HOST:PORT as address"),
        ('{"address": "tls://a"}', "tls://HOST:PORT as address"),
        ('{"address": "tls://a:1", "pid": "7"}', "number of a process as pid"),
        ('{"address": "tls://a:1", "pid": -1}', "number of a process as pid"),
        ('{"address": "tls://a:1", "pid": 1e400}', "number of a process as pid"),
        (f'{{"address": "tls://a:1", "pid": 1{"0" * 30}}}', "number of a process as pid"),
        ('{"address": "tls://a:1", "host": 5}', "machine as host"),
        ('{"address": "tls://a:1", "worker": 5}', "n_procs and mem_gb as worker"),
        ('{"address": "tls://a:1", "worker": {"n_procs": 1}}', "n_procs and mem_gb as worker"),
        (
            '{"address": "tls://a:1", "worker": {"n_procs": 0, "mem_gb": NaN}}',
            "n_procs and mem_gb as worker",
        ),
        ('{"address": "tls://a:1", "tls": "x"}', "credentials as text as tls"),
        ('{"address": "tls://a:1", "tls": {"tls_ca_file": 5}}', "credentials as text as tls"),
        ('{"address": "tls://a:1", "tls": {"password": "x"}}', "credentials as text as tls"),
        (" " * 2**21, "does not name a pool"),
    ],
    ids=lambda text: repr(text)[:60],
)
def test_what_is_no_file_of_a_pool_is_one_short_error(
    path: Path, content: str | bytes, word: str
) -> None:
    """Wrong types, nesting, size and encoding of anything that is read from the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_pool_file(path)
    [problem] = caught.value.problems
    assert f"{path} does not name a pool" in problem
    assert word in problem
    assert "nipype-blm pool start" in problem
    assert len(problem) < len(str(path)) + 300


@pytest.mark.parametrize("kind", ["folder", "named pipe", "loop", "dangling"])
def test_what_is_no_file_is_one_error_and_no_waiting(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    with pytest.raises(InputError, match=r"cannot be read|does not name a pool"):
        read_pool_file(path)


@pytest.mark.parametrize("what", ["no certificate", "no file", "nothing"])
def test_credentials_that_are_none_are_one_error(path: Path, what: str) -> None:
    texts = {"no certificate": "a\nb", "no file": str(path.with_name("none.pem")), "nothing": None}
    fields = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    path.write_text(json.dumps({"address": ADDRESS, "tls": dict.fromkeys(fields, texts[what])}))
    with pytest.raises(InputError, match=r"does not answer at tls://127.0.0.1:1 "):
        poolfile.connect(path)


def test_the_address_of_a_scheduler_is_no_cluster() -> None:
    """There is no second way to a stranger's scheduler than a file."""
    with pytest.raises(InputError, match="is not a cluster type"):
        DaskPlugin({"cluster": "tcp://127.0.0.1:8786"})
