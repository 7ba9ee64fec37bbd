"""Which modules the nodes of a run import on workers that outlive runs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster
from nipype import Function, Node, Workflow
from nipype.pipeline.engine.utils import load_resultfile

from nipype_blm.plugins import DaskPlugin

# What a test waits for takes seconds; this is for a machine that is busy.
TIME_LIMIT = 180
# Modules beside scripts, and one that the workers have; nothing else has these names.
STEPS, PARTS, INSTALLED = "steps_of_a_project", "parts_of_a_project", "installed_for_all_projects"


def import_module(x):
    from parts_of_a_project.inside import VALUE
    from steps_of_a_project import describe

    return [describe(), VALUE]


class Project:
    """A folder with a script, a module and a package beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n_runs = self._n_versions = 0

    def write(self, value: str) -> None:
        """Write the modules; a later version is newer whatever the clock of the disk says."""
        self._n_versions += 1
        parts = self.folder / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        sources = {
            self.folder / f"{STEPS}.py": f"def describe():\n    return {value!r}\n",
            parts / "__init__.py": "",
            parts / "inside.py": f"VALUE = {value!r}\n",
        }
        for path, source in sources.items():
            path.write_text(source)
            os.utime(path, (4e9 + self._n_versions,) * 2)

    def run(self, cluster: LocalCluster) -> list[str]:
        """Run a node; return what it has found in the modules."""
        self._n_runs += 1
        node = Node(Function(function=import_module, output_names=["out"]), name="node")
        node.inputs.x = 1
        workflow = Workflow(f"wf{self._n_runs}", base_dir=str(self.folder / "work"))
        workflow.config["execution"] = {"crashdump_dir": str(self.folder)}
        workflow.add_nodes([node])
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(self.folder)
            workflow.run(plugin=DaskPlugin({"cluster": cluster}))
        [result] = self.folder.glob(f"work/wf{self._n_runs}/node/result_*.pklz")
        return load_resultfile(result).outputs.out


def find_paths(cluster: LocalCluster) -> list[str]:
    """Return where the only worker looks for modules."""

    def find() -> list[str]:
        import sys

        return list(sys.path)

    with cluster.get_client() as client:
        [found] = client.run(find).values()
    return found


def count_imports(cluster: LocalCluster, name: str) -> int:
    """Import a module; return how often the only worker has done so with the one that is there."""

    def count() -> int:
        from importlib import import_module

        module = import_module(name)
        module.n_imports = getattr(module, "n_imports", 0) + 1
        return module.n_imports

    with cluster.get_client() as client:
        [found] = client.run(count).values()
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One worker in a process of its own, so that all runs meet there.

    It has packages in a folder of PYTHONPATH, as of a module of the cluster.
    """
    packages = tmp_path_factory.mktemp("packages") / "site-packages"
    packages.mkdir()
    (packages / f"{INSTALLED}.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("worker"))
        patch.syspath_prepend(packages)  # workers start with the sys.path of their cluster
        found = LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None
        )
    with found:
        yield found


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[str], Project]:
    """Function that writes a project; its modules hold the name."""

    def make(name: str) -> Project:
        project = Project(tmp_path / name)
        project.write(name)
        return project

    return make


def test_a_module_that_was_changed_is_imported_anew_by_the_next_run(
    cluster: LocalCluster, make_project: Callable[[str], Project]
) -> None:
    project = make_project("first")
    assert project.run(cluster) == ["first", "first"]
    project.write("the second version")
    assert project.run(cluster) == ["the second version", "the second version"]


def test_modules_of_two_projects_may_have_the_same_names(
    cluster: LocalCluster, make_project: Callable[[str], Project]
) -> None:
    projects = [make_project("a"), make_project("b")]
    assert [project.run(cluster) for project in projects] == [["a", "a"], ["b", "b"]]
    assert projects[0].run(cluster) == ["a", "a"]


def test_packages_that_a_worker_has_imported_before_a_run_stay(
    cluster: LocalCluster, make_project: Callable[[str], Project]
) -> None:
    """Imported by each run, Nipype and numba would take memory and time."""
    before = count_imports(cluster, INSTALLED)
    make_project("some").run(cluster)
    assert count_imports(cluster, INSTALLED) == before + 1


def test_a_run_leaves_nothing_on_the_pool(
    cluster: LocalCluster, make_project: Callable[[str], Project]
) -> None:
    make_project("first").run(cluster)
    plugins, paths = set(cluster.scheduler.worker_plugins), find_paths(cluster)
    project = make_project("second")
    project.run(cluster)
    assert set(cluster.scheduler.worker_plugins) == plugins
    assert find_paths(cluster) == paths
    assert str(project.folder) not in paths


def test_the_modules_of_a_driver_stay_where_workers_live_in_its_process(
    make_project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("as imported")
    monkeypatch.syspath_prepend(project.folder)
    names = (STEPS, PARTS, f"{PARTS}.inside")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
        __import__(name)
    modules, paths = {name: sys.modules[name] for name in names}, list(sys.path)
    project.write("changed since then")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        assert project.run(cluster) == ["as imported", "as imported"]
    assert {name: sys.modules.get(name) for name in names} == modules
    assert sys.path == paths


# A process that stands for a worker of two runs at the same time.
TWO_RUNS = """
import sys
from nipype_blm.tasks.modules import ImportPaths, prepare_modules

def register(folder):
    paths = ImportPaths()
    paths._paths, paths._driver = [folder, *sys.path], ("another host", 1)
    paths.setup(None)
    return paths

def import_module(paths):
    prepare_modules(paths.name, None)
    import steps_of_a_project
    return steps_of_a_project.NAME

before = list(sys.path)
first, second = register(sys.argv[1]), register(sys.argv[2])
print(*(import_module(paths) for paths in (first, second, first, first, second)))
second.teardown(None)
print(import_module(first))
first.teardown(None)
print(sys.path == before)
"""


def test_two_runs_at_the_same_time_have_their_own_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{STEPS}.py").write_text(f"NAME = {name!r}")
    command = [sys.executable, "-c", TWO_RUNS, str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.stdout.splitlines() == ["a b a a b", "a", "True"], done.stderr
