"""The wheel that users install holds everything and works outside of the checkout."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[1]
FOLDERS = {"nipype_blm": CHECKOUT / "nipype_blm", "nipype_blm.workflows": CHECKOUT / "workflows"}
BOUND = re.compile(r"[a-z0-9-]+>=[0-9.]+(,<[0-9.]+)?(;python_version<\S+)?")  # as in the Makefile
NOT_SOURCE = shutil.ignore_patterns("__pycache__")


def run(command: str | Path, *arguments: str, cwd: Path) -> str:
    """Return what a command prints that finds no checkout in its folder or in PYTHONPATH."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([command, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Installed(NamedTuple):
    """A wheel and the new virtual environment into which it was installed."""

    wheel: Path
    environment: Path

    def run(self, command: str, *arguments: str) -> str:
        return run(self.environment / "bin" / command, *arguments, cwd=self.environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """Wheel of a copy of the checkout, installed; dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files behind that get into later wheels
    source.mkdir()
    for name in ["setup.cfg", "pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(CHECKOUT / name, source)
    for name in ["nipype_blm", "workflows"]:
        shutil.copytree(CHECKOUT / name, source / name, ignore=NOT_SOURCE)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "./source", cwd=folder)
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    python = str(environment / "bin" / "python")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel), cwd=folder)
    # These folders are searched last, and the .pth file of an editable install in them is not read.
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    return Installed(wheel, environment)


def package_files() -> set[str]:
    """Return the files of the packages, named as they are in the wheel."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_setup_cfg_lists_every_folder_with_python_files():
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    files = package_files()
    folders = {str(Path(file).parent) for file in files if file.endswith(".py")}
    folders -= {"nipype_blm/ngv/scripts"}  # another Python runs these: data of this one
    assert {name.replace(".", "/") for name in config["options"]["packages"].split()} == folders
    assert {f"{folder}/__init__.py" for folder in folders} <= files


def test_every_library_has_a_lower_bound_with_which_the_tests_are_run():
    """Without one nobody knows what is too old; `make test-short OLDEST=1` installs the bounds."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    groups = [
        config["options"]["install_requires"],
        *(config["options.extras_require"][extra] for extra in ("plot", "test")),
    ]
    libraries = [line for group in groups for line in group.split() if "nipype_blm[" not in line]
    assert [line for line in libraries if not BOUND.fullmatch(line)] == []


def test_readme_and_classifiers_name_the_pythons_and_the_oldest_libraries_that_are_tested():
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    [tested] = re.findall(r"^Tested on Linux:(.*?)^$", readme, re.MULTILINE | re.DOTALL)
    pythons = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert pythons[0] == config["options"]["python_requires"].removeprefix(">=")
    assert sorted(set(re.findall(r"\b3\.\d+", tested))) == pythons
    [oldest] = re.findall(r"oldest[^(]+\((.*?)\)", tested, re.DOTALL)
    for name, version in re.findall(r"(\w+) ([\d.]+)", oldest):
        assert f"\n{name.lower()}>={version}.0\n" in config["options"]["install_requires"]


def test_the_wheel_holds_every_file_of_the_packages(installed):
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package_files()


@pytest.mark.parametrize("module", FOLDERS)
def test_the_wheel_is_imported_outside_of_the_checkout(module, installed):
    program = f"import importlib; print(importlib.import_module({module!r}).__file__)"
    file = installed.run("python", "-c", program).strip()
    assert Path(file).is_relative_to(installed.environment)


def test_the_installed_command_prints_its_help(installed):
    assert "usage" in installed.run("blm", "--help").lower()
