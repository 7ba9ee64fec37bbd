"""Settings and fixtures of all tests."""

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Program, starting, wait_until
from circuits import fetch_source, find_ngv_python, share_circuit
from hypothesis import settings

os.environ["NIPYPE_NO_ET"] = "1"  # Nipype asks the network for its newest version
os.environ["MPLBACKEND"] = "Agg"
# Of commands in tests of other things: drawing would take most of their time.
os.environ["NIPYPE_BLM_REPORT"] = "no"

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=20_000)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# With which the names of maps of a result begin.
RESULTS = ("blm_vox_", "blmm_vox_", "contrast-")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images and reference answers."""
    folder = os.environ.get("NIPYPE_BLM_TEST_DATA")
    if not folder:
        pytest.skip("NIPYPE_BLM_TEST_DATA is not set: set it to the folder of the test data")
    if not Path(folder).is_dir():
        pytest.skip(f"NIPYPE_BLM_TEST_DATA={folder} is not a folder: get the test data into it")
    return Path(folder)


@pytest.fixture(scope="session")
def ngv_python() -> Path:
    """Python of the environment of ArchNGV."""
    return find_ngv_python()


@pytest.fixture(scope="session")
def functional_circuit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what a circuit of 5 astrocytes is made from, and what ArchNGV expects of it."""
    return fetch_source(_shared_folder(tmp_path_factory)) / "functional"


@pytest.fixture(scope="session")
def built_circuit(
    tmp_path_factory: pytest.TempPathFactory, functional_circuit: Path, ngv_python: Path
) -> Path:
    """That circuit, computed once for all processes of tests."""
    folder = _shared_folder(tmp_path_factory)
    return share_circuit(folder, functional_circuit / "bioname", ngv_python)


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that processes of pytest-xdist have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "circuits"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def require_command() -> Callable[[str, str], str]:
    """Function that returns the path of a command, or skips and names its Debian package."""

    def find(command: str, debian_package: str) -> str:
        path = shutil.which(command)
        if path is None:
            pytest.skip(f"{command} is not installed: apt-get install {debian_package}")
        return path

    return find


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], object], float, str], None]:
    return wait_until


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Function that starts a Python program; it is killed when the test ends."""
    with starting(Program, tmp_path) as start:
        yield start


@pytest.fixture
def as_ordinary_user(require_command: Callable[[str, str], str]) -> list[str]:
    """Words before a command, so that the modes of files count: root is above them else."""
    if os.getuid() != 0:
        return []
    rights = "--bounding-set=-dac_override,-dac_read_search"
    return [require_command("setpriv", "util-linux"), rights]


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that this process reads, masks too, and no maps of a result."""
    from nipype_blm.data.images import ImageReader

    names: list[str] = []
    read = ImageReader.read

    def note(reader: ImageReader, path: Path, *rest: Any) -> Any:
        if not path.name.startswith(RESULTS):  # what was found is told of them
            names.append(path.name)
        return read(reader, path, *rest)

    monkeypatch.setattr(ImageReader, "read", note)
    return names


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("NIPYPE_BLM_NO_SKIPS") != "1" or not report.skipped:
        return
    if hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"NIPYPE_BLM_NO_SKIPS=1 forbids this skip.  {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report
