"""The cache of compiled kernels: damage, folders that cannot be used, changes of the package."""

import os
import shutil
import time
from pathlib import Path

import pytest
from forked import fork_with_numba

import nipype_blm

KERNEL = """
from nipype_blm.core._jit import cache_directory, kernel

@kernel
def double(x):
    return x + x

@kernel
def triple(x):
    return 3 * x
"""

# Raises what a kernel may: an error of its own, one of memory, and one of its arguments' types.
FAIL = """
import numpy as np
from nipype_blm.core._jit import kernel
from kernels import double

@kernel
def fail(x):
    if x > 0:
        raise ValueError("positive")
    return np.empty(2**58)[0]

caught = []
for function, value in ((fail, 1.0), (fail, -1.0), (double, None)):
    try:
        function(value)
    except Exception as error:
        caught.append(type(error).__name__)
print(*caught)
"""

# Prints the folder of the cache, and what the kernels return.
USE = """
from kernels import cache_directory, double, triple
print(cache_directory(), double(2.5), triple(2.5))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a module of kernels, and a folder with their cache."""
    project, cache = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("cache")
    (project / "kernels.py").write_text(KERNEL)
    use(project, NUMBA_CACHE_DIR=cache)
    return project, cache


@pytest.fixture
def project(made: tuple[Path, Path]) -> Path:
    return made[0]


@pytest.fixture
def cache(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the cache."""
    return shutil.copytree(made[1], tmp_path / "cache")


def run(project: Path, program: str = USE, **variables: str | Path | None) -> str:
    """Run a program in a new process; a variable that is None is not set."""
    environment = os.environ | variables
    environment = {name: str(value) for name, value in environment.items() if value is not None}
    result = fork_with_numba().run(program, project, environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def use(project: Path, **variables: str | Path | None) -> Path:
    """Run the kernels in a new process and return the folder of their cache."""
    folder, *results = run(project, **variables).rsplit(" ", 2)
    assert results == ["5.0", "7.5"]
    return Path(folder)


def cache_files(folder: Path) -> dict[str, Path]:
    """Return the index (nbi) and data (nbc) of `double`, which Numba keeps in a subfolder."""
    files = {path.suffix: path for path in folder.rglob("*double*")}
    assert files.keys() == {".nbi", ".nbc"}
    return files


def test_kernels_are_compiled_once_and_kept(project, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb*")}
    assert len(before) == 4
    assert use(project, NUMBA_CACHE_DIR=cache).parent == cache
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb*")} == before


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "text": lambda content: b"This is not a cache.\n" * 50,
    "one wrong letter": lambda content: content.replace(b"numba", b"mumba", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_cache_is_made_anew(project, cache, damage, suffix):
    file = cache_files(cache)[suffix]
    damaged = DAMAGE[damage](file.read_bytes())
    file.write_bytes(damaged)
    assert use(project, NUMBA_CACHE_DIR=cache).parent == cache
    assert cache_files(cache)[suffix].read_bytes() != damaged


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_lost_cache_file_is_made_anew(project, cache, suffix):
    cache_files(cache)[suffix].unlink()
    use(project, NUMBA_CACHE_DIR=cache)
    cache_files(cache)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damage_to_one_kernel_leaves_the_others_alone(project, cache, suffix):
    others = {path: path.stat().st_mtime_ns for path in cache.rglob("*triple*")}
    cache_files(cache)[suffix].write_bytes(b"damaged")
    use(project, NUMBA_CACHE_DIR=cache)
    assert len(others) == 2
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_an_exception_out_of_a_kernel_leaves_the_cache_alone(project, cache):
    """Whatever it is: of the kernel, of memory, of types; only loading tells of damage."""
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb*")}
    (project / "fail.py").write_text(FAIL)
    caught = run(project, "import fail", NUMBA_CACHE_DIR=cache)
    assert caught == "ValueError MemoryError TypingError"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_cache_that_cannot_be_written_is_done_without(project, tmp_path):
    """As on a full disk, or beyond a quota."""
    limit = "import kernels, resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    folder, *results = run(project, limit + USE, NUMBA_CACHE_DIR=tmp_path).rsplit(" ", 2)
    assert results == ["5.0", "7.5"]
    assert not list(Path(folder).rglob("*.nb*"))


def make_unused(folder: Path, days: float) -> Path:
    """Make a folder look as if it was used last some days ago."""
    folder.mkdir(exist_ok=True)
    (folder / "core").mkdir(exist_ok=True)
    used = time.time() - days * 86400
    os.utime(folder, (used, used))
    return folder


def test_a_new_cache_replaces_those_of_other_kernels_that_nobody_uses(project, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    name = f"nipype_blm-{{}}-numba0.60.0-a-host-{os.getuid()}"
    unused = make_unused(cache / name.format("0" * 16), 31)
    recent = make_unused(cache / name.format("1" * 16), 29)
    other = make_unused(cache / "nipype_blm-mine", 31)
    of_another_user = make_unused(cache / f"{name.format('2' * 16)}0", 31)
    link = cache / name.format("3" * 16)
    link.symlink_to(make_unused(tmp_path / "elsewhere", 31))
    folder = use(project, NUMBA_CACHE_DIR=cache)
    assert set(cache.iterdir()) == {folder, recent, other, of_another_user, link}
    assert (tmp_path / "elsewhere" / "core").is_dir()
    assert not unused.exists()


def test_using_a_cache_is_noted(project, cache):
    [folder] = cache.iterdir()
    make_unused(folder, 31)
    before = time.time()
    assert use(project, NUMBA_CACHE_DIR=cache) == folder
    # File systems may note seconds only.
    assert folder.stat().st_mtime > before - 2


def test_the_cache_lies_in_the_home_folder_unless_told_otherwise(project, tmp_path):
    plain = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": tmp_path / "home"}
    assert use(project, **plain).parent == tmp_path / "home/.cache"
    assert use(project, **plain | {"XDG_CACHE_HOME": tmp_path / "x"}).parent == tmp_path / "x"


def test_a_read_only_package_and_an_unusable_home_work(tmp_path):
    project, temporary = tmp_path / "project", tmp_path / "temporary"
    temporary.mkdir()
    shutil.copytree(Path(nipype_blm.__file__).parent, project / "nipype_blm")
    (project / "kernels.py").write_text(KERNEL)
    folders = [project, *(path for path in project.rglob("*") if path.is_dir())]
    before = set(project.rglob("*"))
    # /dev/null has no subfolders, not even for root.
    nowhere = {"HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null/cache", "XDG_CACHE_HOME": None}
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert use(project, TMPDIR=temporary, **nowhere).parent == temporary
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert set(project.rglob("*")) == before


def test_a_user_without_a_home_folder_works(project, tmp_path):
    # As in a container that runs as a user number without an account.
    program = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""
    nowhere = {"HOME": None, "NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "TMPDIR": tmp_path}
    folder, *results = run(project, program + USE, **nowhere).rsplit(" ", 2)
    assert results == ["5.0", "7.5"]
    assert Path(folder).parent == tmp_path


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_cache_that_others_can_write_to_is_not_used(project, cache, tmp_path, mode):
    [folder] = cache.iterdir()
    for file in cache_files(folder).values():
        file.write_bytes(b"from somebody else")
    folder.chmod(mode)
    other = tmp_path / "other"
    assert use(project, NUMBA_CACHE_DIR=cache, XDG_CACHE_HOME=other).parent == other
    for file in cache_files(folder).values():
        assert file.read_bytes() == b"from somebody else"


def test_a_link_in_place_of_the_cache_is_not_followed(project, cache, tmp_path):
    [folder] = cache.iterdir()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    other = tmp_path / "other"
    assert use(project, NUMBA_CACHE_DIR=cache, XDG_CACHE_HOME=other).parent == other


def test_a_temporary_folder_is_made_where_no_cache_is_private(project, tmp_path):
    places = {"NUMBA_CACHE_DIR": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "TMPDIR": tmp_path}
    taken = use(project, **places)
    taken.chmod(0o777)
    folder = use(project, **places)
    assert folder.parent == tmp_path
    assert folder != taken
    assert folder.stat().st_mode & 0o777 == 0o700


HELPER = """
from nipype_blm.core._jit import routine

@routine
def increase(x):
    return x + 1
"""
CALLER = """
from nipype_blm.core._jit import kernel
from nipype_blm.core.helper import increase

@kernel
def increase_twice(x):
    return increase(increase(x))
"""
CALL = """
from nipype_blm.core.caller import increase_twice
print(increase_twice(1))
"""


def test_a_changed_helper_recompiles_the_kernels_of_other_modules(tmp_path):
    """Numba itself looks only at the file in which a kernel stands."""
    package = shutil.copytree(Path(nipype_blm.__file__).parent, tmp_path / "nipype_blm")
    helper = package / "core" / "helper.py"
    helper.write_text(HELPER)
    (package / "core" / "caller.py").write_text(CALLER)
    assert run(tmp_path, CALL, NUMBA_CACHE_DIR=tmp_path / "cache") == "3"
    helper.write_text(HELPER.replace("x + 1", "x + 2"))
    assert run(tmp_path, CALL, NUMBA_CACHE_DIR=tmp_path / "cache") == "5"


TELL = """
from kernels import cache_directory, double, triple
from nipype_blm.core._jit import telling_of_compilation
told = []
with telling_of_compilation(lambda: told.append("compiling")):
    double(2.5), triple(2.5), double(2.5)
triple(1)
print(len(told))
"""


def test_compilation_is_told_of_once_and_loading_from_the_cache_is_not(project, tmp_path):
    assert run(project, TELL, NUMBA_CACHE_DIR=tmp_path) == "1"
    assert run(project, TELL.replace("triple(1)", ""), NUMBA_CACHE_DIR=tmp_path) == "0"
