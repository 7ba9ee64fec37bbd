"""The environment of ArchNGV, the circuit of its source, and that circuit computed."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from nipype_blm.io.lock import locked
from nipype_blm.ngv.environment.finding import VARIABLE, is_installed, read_pins
from nipype_blm.ngv.environment.installing import install

CHECKOUT = Path(__file__).parents[1]
_ENVIRONMENT = CHECKOUT / ".venv" / "ngv"
_PATIENCE_S = 1800.0  # of other processes of tests, while one installs or computes


def find_ngv_python() -> Path:
    """Return the Python of ArchNGV's environment, which is made if there is none."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    _ENVIRONMENT.parent.mkdir(exist_ok=True)
    with locked(_ENVIRONMENT.with_name("ngv.lock"), _PATIENCE_S):
        if not is_installed(_ENVIRONMENT):
            install(_ENVIRONMENT, None, print)
    return _ENVIRONMENT / "bin" / "python"


def fetch_source(folder: Path) -> Path:
    """Return the folder of tests of ArchNGV's source, which the package index has."""
    version = read_pins()["archngv"]
    source = folder / f"archngv-{version}"
    with locked(folder / "source.lock", _PATIENCE_S):
        if not source.is_dir():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
            what = ["--no-deps", "--no-binary=archngv", f"archngv=={version}"]
            done = subprocess.run([*pip, "--dest", folder, *what], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (archive,) = folder.glob("*.tar.gz")
            part = folder / "part"
            with tarfile.open(archive) as file:
                file.extractall(part, filter="data")
            (part / source.name).replace(source)
    return source / "tests"


def compute_circuit(config: Path, out_dir: Path, ngv_python: Path, **options: object) -> Path:
    """Compute a circuit by a workflow, node after node; return its folder."""
    from nipype_blm.workflows.ngv import init_ngv_wf

    workflow = init_ngv_wf(config=config, out_dir=out_dir, ngv_python=ngv_python, **options)
    workflow.base_dir = str(out_dir / "work")
    workflow.config["execution"] |= {
        "crashdump_dir": str(out_dir / "work"),
        "poll_sleep_duration": "0.1",
    }
    workflow.run()
    return out_dir


def share_circuit(folder: Path, config: Path, ngv_python: Path) -> Path:
    """Return a computed circuit that all processes of tests share; nobody changes it."""
    out = folder / "circuit"
    with locked(folder / "circuit.lock", _PATIENCE_S):
        if not (out / "done").is_file():
            shutil.rmtree(out, ignore_errors=True)
            compute_circuit(config, out, ngv_python)
            (out / "done").touch()
    return out
