"""The environment of ArchNGV: how it is found and checked, and how its installation can fail."""

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nipype_blm.cli.command import BAD_INPUT, FAILED, OK, report_errors
from nipype_blm.cli.ngvinstall import add_install
from nipype_blm.errors import InputError
from nipype_blm.ngv.environment import installing
from nipype_blm.ngv.environment.finding import (
    VARIABLE,
    find_default_folder,
    find_environment,
    is_installed,
    note,
    read_pins,
)
from nipype_blm.ngv.environment.installing import InstallError, install

# Has the versions of the pins, whatever is asked; all else a stand-in for pip does.
_FAKE = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
*sysconfig*) echo '{{"version": [3, {minor}], "executable": "'$here/$(basename "$0")'",
    "ensurepip": {ensurepip}, "include": "'$here'"}}';;
*distributions*) cat "$here/versions.json";;
*"-m venv"*) shift 3; mkdir -p "$1/bin"; cp "$0" "$1/bin/python"; cp "$here"/*.json "$1/bin"
    {venv};;
*--dry-run*) {wheel};;
*" check"*) echo No broken requirements found.;;
*"import gmsh"*) {gmsh};;
*import*) {load};;
*cmake*) {tools};;
*--requirement*) {pip};;
*) echo unexpected: "$*"; exit 9;;
esac
"""
_GOOD = {
    **{"minor": "11", "ensurepip": "true", "venv": "true", "wheel": "true", "gmsh": "echo 1"},
    **{"load": "true", "tools": "true", "pip": "echo Successfully installed all"},
}
Make = Callable[..., Path]


@pytest.fixture
def make_python(tmp_path: Path) -> Make:
    """Function that writes a stand-in for Python, which does all that it is asked to do."""

    def make(name: str = "base", versions: Any = None, **differing: str) -> Path:
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        versions = {"python": [3, 11], "versions": read_pins() | (versions or {})}
        (folder / "versions.json").write_text(json.dumps(versions))
        (folder / "Python.h").touch()
        (folder / "python").write_text(_FAKE.format(**_GOOD | differing))
        (folder / "python").chmod(0o755)
        return folder / "python"

    return make


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, request: Any, tmp_path: Path):
    """Find no environment that this machine has."""
    if "ngv_python" not in request.fixturenames:
        monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)


def _be_silent(text: str) -> None:
    """Take what is said."""


# What the installation has made


def test_the_environment_of_the_tests_has_the_pins_and_nothing_is_broken(ngv_python: Path):
    found = find_environment(ngv_python)
    pins = read_pins()
    assert found.versions == {name: pins[name] for name in found.versions}
    command = [ngv_python, "-I", "-m", "pip", "--disable-pip-version-check", "check"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_all_pins_are_installed_in_the_version_that_pip_tells(ngv_python: Path):
    command = [ngv_python, "-I", "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {
        each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(done.stdout)
    }
    assert read_pins().items() <= found.items()


def test_pins_name_all_that_the_pinned_packages_require(ngv_python: Path):
    """So that nothing is left to what an index has that day."""
    source = (
        "import sys\nfrom importlib.metadata import requires\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "for name in sys.argv[1:]:\n"
        "    for each in map(Requirement, requires(name) or []):\n"
        "        if each.marker is None or each.marker.evaluate({'extra': ''}):\n"
        "            print(each.name.lower().replace('_', '-').replace('.', '-'))\n"
    )
    command = [ngv_python, "-I", "-c", source, *read_pins()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) - {"setuptools"} <= read_pins().keys()


# How it is found


def test_a_python_is_found_by_its_path_its_folder_and_the_variable(
    make_python: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    python = make_python("env")
    expected = find_environment(python)
    assert expected.python == python
    assert find_environment(str(tmp_path / "env")) == expected
    monkeypatch.chdir(tmp_path)
    assert find_environment("env") == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_environment("~/env/bin/python") == expected
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env"))
    assert find_environment() == expected
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other"))
    assert find_environment(python) == expected  # what is given comes first


def test_a_link_to_a_python_elsewhere_is_followed_into_its_environment(
    tmp_path: Path,
):
    """Python itself finds what is beside the link, not what is beside the environment's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    own = tmp_path / "env" / "bin" / "python"
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "folder").symlink_to("env")
    for given in (tmp_path / "link", tmp_path / "folder", own):
        with pytest.raises(InputError, match=r"lacks archngv") as caught:
            find_environment(given)
        # Not that of the Python it was made with, which has what its own site-packages have.
        assert str(given.parent) in str(caught.value)
        assert "and 16 more" in str(caught.value)


@pytest.mark.parametrize("name", ["ngv_python", VARIABLE, ""])
def test_where_there_is_none_what_was_looked_at_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    given = tmp_path / "gone" if name == "ngv_python" else None
    if name == VARIABLE:
        monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"nipype-blm ngv install.*network") as caught:
        find_environment(given)
    looked = f"{name} {tmp_path / 'gone'} is not there" if name else str(find_default_folder())
    assert looked in str(caught.value)


def test_an_environment_whose_python_is_gone_is_told(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("python3")
    (tmp_path / "bin" / "python3").symlink_to("/opt/gone/bin/python3.11")
    with pytest.raises(InputError, match=r"/opt/gone/bin/python3.11.*install"):
        find_environment(tmp_path)


def test_an_environment_that_is_not_whole_is_not_used(make_python: Make, tmp_path: Path):
    python = make_python("env")
    note(tmp_path / "env", is_whole=False)
    with pytest.raises(InputError, match="not made to its end"):
        find_environment(python)
    note(tmp_path / "env", is_whole=True)
    assert find_environment(python).python == python


def test_other_versions_are_refused_unless_any_will_do(make_python: Make):
    python = make_python(versions={"numpy": "2.4.6", "attrs": "1"})
    with pytest.raises(InputError, match=r"numpy 2.4.6 .1.26.4 is expected"):
        find_environment(python)
    found = find_environment(python, any_versions=True)
    assert found.versions["numpy"] == "2.4.6"
    assert found.stamp != find_environment(make_python("pinned")).stamp


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("echo unknown option -I >&2; exit 2", "unknown option -I"),
        ("kill -9 $$", "it ended with -9"),
        ("echo hello", "it ended with 0"),
    ],
)
def test_what_is_no_python_is_told(source: str, expected: str, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{source}\n")
    python.chmod(0o755)
    with pytest.raises(InputError, match=expected):
        find_environment(python)
    python.chmod(0o644)
    with pytest.raises(InputError, match="Permission denied"):
        find_environment(python)


# How it is made


def test_what_is_installed_is_found_and_not_installed_again(make_python: Make, tmp_path: Path):
    said: list[str] = []
    own = install(tmp_path / "new", make_python(), said.append)
    assert own == tmp_path / "new" / "bin" / "python"
    assert find_environment(tmp_path / "new").python == own
    assert not (tmp_path / "new" / "tmp").exists()
    assert not list((tmp_path / "new").glob("*.lock"))
    n_said = len(said)
    install(tmp_path / "new", Path("/no/such/python"), said.append)
    assert said[n_said:] == [f"{tmp_path / 'new'} has the environment already."]


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        ({"venv": "echo Error: cannot copy; exit 1"}, "Error: cannot copy"),
        (
            {"pip": "echo 'ERROR: No matching distribution found for tmd==2.4.3'; exit 1"},
            "tmd==2.4",
        ),
        ({"pip": 'echo "OSError: [Errno 28] No space left on device"; exit 1'}, "1 GB.*--folder"),
        ({"pip": "echo 'OSError: [Errno 122] Disk quota exceeded'; exit 1"}, "1 GB.*--folder"),
        ({"wheel": "echo \"connection broken by 'NewConnectionError'\"; exit 1"}, "login node"),
        ({"wheel": "echo '(CERTIFICATE_VERIFY_FAILED)'; exit 1"}, "PIP_CERT"),
        ({"load": "echo 'ImportError: libx.so: no such file' >&2; exit 1"}, "ImportError: libx.so"),
        ({"pip": "kill -9 $$"}, "signal 9"),
        (
            {"pip": "echo 'x.cc:1: fatal error: Killed'; echo 'ERROR: failed'; exit 1"},
            "error: Killed",
        ),
    ],
)
def test_a_failure_is_told_and_leaves_nothing_that_looks_whole(
    make_python: Make, tmp_path: Path, differing: dict[str, str], expected: str
):
    folder = tmp_path / "new"
    with pytest.raises(InstallError, match=expected) as caught:
        install(folder, make_python("bad", **differing), _be_silent)
    assert str(folder / "install.log") in str(caught.value)
    assert (folder / "install.log").is_file()
    assert not is_installed(folder)
    if (folder / "bin" / "python").exists():
        with pytest.raises(InputError, match="not made to its end"):
            find_environment(folder)
    (folder / "lib").mkdir()  # whatever is left is removed when it is begun again
    assert install(folder, make_python("good"), _be_silent)
    assert is_installed(folder)
    assert not (folder / "lib").exists()


def test_the_index_that_was_asked_is_named(make_python: Make, tmp_path: Path):
    looked = "echo Looking in indexes: https://example.org/simple"
    said = f"{looked}; echo 'ERROR: No matching distribution found for tmd'; exit 1"
    with pytest.raises(InstallError, match=r"looked for in https://example.org/simple"):
        install(tmp_path / "new", make_python(pip=said), _be_silent)


_NO_WHEEL = "echo 'ERROR: No matching distribution found for openmesh==1.2.1'; exit 1"


def test_without_a_wheel_a_compiler_is_looked_for_before_anything_is_fetched(
    make_python: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "tools").mkdir()
    for name in ("sh", "cp", "mkdir", "dirname", "basename", "cat"):
        (tmp_path / "tools" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    monkeypatch.delenv("CXX", raising=False)
    said: list[str] = []
    python = make_python(wheel=_NO_WHEEL)
    with pytest.raises(InstallError, match=r"no C\+\+ compiler.*g\+\+ and python3.11-dev"):
        install(tmp_path / "new", python, said.append)
    assert len(said) == 1  # not one about fetching
    compiler = tmp_path / "tools" / "c++"
    compiler.write_text("#!/bin/sh\necho '<stdin>:2: fatal error: Python.h: No such file'; exit 1")
    compiler.chmod(0o755)
    with pytest.raises(InstallError, match=r"fatal error: Python.h: No such file"):
        install(tmp_path / "new", python, said.append)
    compiler.write_text("#!/bin/sh\nexit 0")
    assert install(tmp_path / "new", python, said.append)


def test_a_real_compiler_is_asked_for_the_headers_of_python(
    require_command: Callable[..., str], tmp_path: Path
):
    compiler = [require_command("g++", "g++")]
    (tmp_path / "Python.h").write_text("struct PyObject {};\n")
    assert installing._try_compiler(compiler, tmp_path) is None
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in str(installing._try_compiler(compiler, tmp_path))
    assert installing._try_compiler(["/no/such/compiler"], tmp_path)


def test_where_gmsh_lacks_libraries_the_rest_is_installed_with_a_notice(
    make_python: Make, tmp_path: Path
):
    said: list[str] = []
    python = make_python(gmsh="echo 'OSError: libGLU.so.1: cannot open' >&2; exit 1")
    install(tmp_path / "new", python, said.append)
    assert is_installed(tmp_path / "new")
    assert "libGLU.so.1" in said[-1]
    assert "libglu1-mesa" in said[-1]


def test_a_python_that_does_not_fit_is_told(make_python: Make, tmp_path: Path):
    for python, expected in (
        (make_python("old", minor="9"), "is Python 3.9; expected 3.11 or 3.12"),
        (tmp_path / "gone", "cannot be run"),
        (make_python("bare", ensurepip="false"), "no ensurepip.*python3.11-venv"),
    ):
        with pytest.raises(InputError, match=expected):
            install(tmp_path / "new", python, _be_silent)
    assert not (tmp_path / "new").exists()


def test_of_several_pythons_the_first_with_all_that_is_needed_is_taken(
    make_python: Make, monkeypatch: pytest.MonkeyPatch
):
    names = ["old", "bare", "good"]
    pythons = [
        make_python("old", minor="9"),
        make_python("bare", ensurepip="false"),
        make_python("good"),
    ]
    monkeypatch.setattr(installing, "_list_candidates", lambda: iter(map(str, pythons)))
    assert installing._find_base(None).python == pythons[2], names
    monkeypatch.setattr(installing, "_list_candidates", lambda: iter([str(pythons[0])]))
    with pytest.raises(InputError, match="none is found here"):
        installing._find_base(None)


def test_a_folder_with_something_else_or_without_room_is_refused(
    make_python: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    python = make_python()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="something else in it"):
        install(tmp_path / "mine", python, _be_silent)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(InputError, match="is a file"):
        install(tmp_path / "mine" / "thesis.tex" / "env", python, _be_silent)
    monkeypatch.setattr(installing, "_NEEDED_GB", 1e9)
    with pytest.raises(InputError, match="are needed; choose another folder"):
        install(tmp_path / "new", python, _be_silent)
    assert not (tmp_path / "new").exists()


_INSTALL = """
import sys
from pathlib import Path
from nipype_blm.ngv.environment.installing import install
install(Path(sys.argv[1]), Path(sys.argv[2]), print)
"""


@pytest.fixture
def begin(
    make_python: Make,
    tmp_path: Path,
    start_program: Callable[..., Any],
    wait_until: Callable[..., None],
) -> Callable[[Path, str], tuple[Any, int]]:
    """Function that begins an installation whose pip says a number, and does not end."""

    def start(folder: Path, pip: str) -> tuple[Any, int]:
        mark = tmp_path / "pid"
        slow = make_python("slow", pip=pip.format(mark=mark))
        program = start_program(_INSTALL, str(folder), str(slow))
        wait_until(lambda: mark.is_file() and mark.read_text(), 60, "pip runs")
        return program, int(mark.read_text())

    return start


def test_an_installation_keeps_others_out_and_leaves_nothing_when_it_is_interrupted(
    make_python: Make,
    tmp_path: Path,
    begin: Callable[..., tuple[Any, int]],
    wait_until: Callable[..., None],
):
    folder = tmp_path / "new"
    program, pid = begin(folder, "sleep 300 & echo $! >{mark}; wait")
    good = make_python("good")
    with pytest.raises(InputError, match="in use by another run"):
        install(folder, good, _be_silent)
    program.interrupt()
    program.wait()
    wait_until(lambda: not _is_there(pid), 10, "what pip started has ended")
    with pytest.raises(InputError, match="not made to its end"):
        find_environment(folder)
    install(folder, good, _be_silent)
    assert is_installed(folder)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_an_installation_that_was_killed_is_begun_again(
    make_python: Make, tmp_path: Path, begin: Callable[..., tuple[Any, int]]
):
    folder = tmp_path / "new"
    program, pid = begin(folder, "echo $$ >{mark}; sleep 30")
    program.kill()
    os.killpg(pid, signal.SIGKILL)
    install(folder, make_python("good"), _be_silent)
    assert is_installed(folder)


def test_silence_is_filled_with_what_was_said_last_and_ended_at_last(
    make_python: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installing, "_SAYING_S", 0.2)
    monkeypatch.setattr(installing, "_STUCK_S", 1.0)
    said: list[str] = []
    python = make_python(pip="echo Collecting tmd; sleep 60")
    with pytest.raises(InstallError, match="nothing was said for"):
        install(tmp_path / "new", python, said.append)
    assert any("s  Collecting tmd" in each for each in said)


def test_pip_is_set_up_as_where_this_runs(
    make_python: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pip.conf").touch()
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    for name, value in (("PIP_TARGET", "/far"), ("PIP_USER", "1"), ("PIP_INDEX_URL", "http://x")):
        monkeypatch.setenv(name, value)
    install(tmp_path / "new", make_python(pip=f"env >{tmp_path / 'env.txt'}"), _be_silent)
    found = dict(line.split("=", 1) for line in (tmp_path / "env.txt").read_text().splitlines())
    assert found["PIP_CONFIG_FILE"] == str(tmp_path / "own" / "pip.conf")
    assert found["PIP_INDEX_URL"] == "http://x"
    assert found["PIP_USER"] == "0"
    assert "PIP_TARGET" not in found
    assert found["TMPDIR"].startswith(str(tmp_path / "new"))
    assert found["PATH"].startswith(str(tmp_path / "new"))  # what compiles, if that is fetched


# The command


def _call(*arguments: str) -> int:
    parser = ArgumentParser("nipype-blm ngv")
    add_install(parser.add_subparsers())
    parsed = parser.parse_args(["install", *arguments])
    return report_errors(lambda: parsed.action(parsed), parsed.interrupted)


def test_the_command_installs_and_says_how_the_environment_is_found(
    make_python: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    python, folder = str(make_python()), tmp_path / "new"
    assert _call("--folder", str(folder), "--python", python) == OK
    assert f"export {VARIABLE}={folder}/bin/python" in capfd.readouterr().out
    assert _call("--python", str(Path(python).parents[1]), "--quiet") == OK  # a folder, too
    assert capfd.readouterr() == ("", "")
    assert find_environment().python == find_default_folder() / "bin" / "python"


def test_the_command_tells_bad_input_from_failure(
    make_python: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert _call("--python", str(make_python("old", minor="9"))) == BAD_INPUT
    assert "expected 3.11 or 3.12" in capfd.readouterr().err
    assert _call("--python", str(make_python("bad", pip="echo ERROR: broken; exit 1"))) == FAILED
    assert "ERROR: broken" in capfd.readouterr().err
    assert _call("--folder", "~no.such.user/env") == BAD_INPUT
    assert "~no.such.user/env" in capfd.readouterr().err
