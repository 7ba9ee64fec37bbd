"""Imports point downwards, and slow third-party packages stay out of start-up."""

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[1]
FOLDERS = {"nipype_blm": CHECKOUT / "nipype_blm", "nipype_blm.workflows": CHECKOUT / "workflows"}

# Run by another Python: they are no modules, and import libraries that are not here.
SCRIPTS = CHECKOUT / "nipype_blm" / "ngv" / "scripts"

LAYERS = [
    *("core", "model", "io", "data", "formula", "frontends", "results", "tasks", "stages", "tbss"),
    *("blockmap", "ngv", "report", "interfaces", "workflows", "plugins", "cli"),
]
# In no layer; anyone may import them.
FREE_MODULES = {
    "nipype_blm",
    "nipype_blm.errors",
    "nipype_blm.machine",
    "nipype_blm.private",
    "nipype_blm.progress",
    "nipype_blm.signals",
    "nipype_blm.units",
}
CORE_PACKAGES = {"numpy", "scipy", "numba", "llvmlite"}
NIPYPE_LAYERS = {"interfaces", "workflows", "plugins", "cli"}
# Those that know of three dimensions, and the modules and words of data that do.
DIMENSION_LAYERS = {"data", "report", "tbss", "blockmap"}
OF_VOLUMES = ("volumes", "grids", "headers", "images")
WORDS_OF_VOLUMES = {"affine", "grid", "grids", "nifti"}
# What knows nothing of voxels, and the rooms that it may use.
BLIND = {"tasks": ("tasks",), "plugins": ("tasks", "plugins")}
# Of tasks, what runs without Dask.
LIGHT_TASKS = {
    "nipype_blm.tasks",
    *(f"nipype_blm.tasks.{name}" for name in ("disks", "journal", "pieces", "runner", "task")),
    *(f"nipype_blm.tasks.{name}" for name in ("commandfolder", "commandjournal")),
    *(
        f"nipype_blm.tasks.{name}"
        for name in ("commandlist", "commands", "performing", "products", "shell")
    ),
}
# What users install; the others are for tests.
EXTRAS = ("plot", "tbss", "ants", "zarr", "hdf5", "tensorstore", "parquet", "boss", "ngv")
SLOW = ("scipy.stats", "pandas", "dask", "distributed", "dask_jobqueue")
PLOTTING = ("nilearn", "matplotlib")


class Import(NamedTuple):
    """One imported name, where it is imported, and whether importing the module runs it."""

    module: str
    line: int
    target: str
    at_start: bool

    @property
    def layer(self) -> str | None:
        return layer_of(self.module)

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]

    @property
    def is_standard(self) -> bool:
        return self.package in sys.stdlib_module_names

    def is_from(self, *packages: str) -> bool:
        return any(f"{self.target}.".startswith(f"{package}.") for package in packages)


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else None


def read_imports(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    package = module if is_package else module.rpartition(".")[0]

    def visit(node: ast.AST, at_start: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name, at_start)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                yield Import(module, node.lineno, f"{base}.{alias.name}", at_start)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from visit_all(node.body, False)
            yield from visit_all(node.orelse, at_start)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit_all(ast.iter_child_nodes(node), at_start and not is_function)

    def visit_all(nodes, at_start: bool) -> Iterator[Import]:
        for node in nodes:
            yield from visit(node, at_start)

    return visit(ast.parse(source), True)


def is_upwards(found: Import) -> bool:
    target = layer_of(found.target) if found.package == "nipype_blm" else None
    if target is None or found.layer is None:
        return False
    return LAYERS.index(target) > LAYERS.index(found.layer)


def is_not_for_core(found: Import) -> bool:
    allowed = found.is_standard or found.package in {"nipype_blm", *CORE_PACKAGES}
    return found.layer == "core" and not allowed


def is_nipype_too_low(found: Import) -> bool:
    return found.is_from("nipype") and found.layer not in NIPYPE_LAYERS


def needs_dask(module: str) -> bool:
    parts = module.split(".")
    is_light = ".".join(parts[:3]) in LIGHT_TASKS
    return layer_of(module) == "plugins" or (layer_of(module) == "tasks" and not is_light)


def is_slow_at_start(found: Import) -> bool:
    # Nobody imports the modules that need Dask before they are wanted.
    is_slow = found.is_from(*SLOW) or needs_dask(found.target)
    return found.at_start and is_slow and not needs_dask(found.module)


def is_not_for_tasks(found: Import) -> bool:
    """Tasks, and plugins that run any workflow on their pools, know nothing of voxels."""
    allowed = {*FREE_MODULES, *(f"nipype_blm.{layer}" for layer in BLIND.get(found.layer, ()))}
    is_ours = found.package == "nipype_blm"
    return found.layer in BLIND and is_ours and not found.is_from(*allowed - {"nipype_blm"})


def is_misplaced_plotting(found: Import) -> bool:
    return found.is_from(*PLOTTING) and (found.at_start or found.layer != "report")


def is_too_heavy_for_everyone(found: Import) -> bool:
    is_light = found.is_standard or found.is_from("nipype_blm.errors")
    return found.layer is None and found.at_start and not is_light


def is_misplaced_dimension(found: Import) -> bool:
    """What an image is, and that it has three dimensions, is for data; drawing is for report."""
    is_of_volumes = found.is_from("nibabel", *(f"nipype_blm.data.{name}" for name in OF_VOLUMES))
    return is_of_volumes and found.layer not in DIMENSION_LAYERS


RULES = {
    is_upwards: f"points upwards: the layers are {' < '.join(LAYERS)}",
    is_not_for_core: f"is not for core, which has {', '.join(sorted(CORE_PACKAGES))}",
    is_nipype_too_low: f"is for {', '.join(sorted(NIPYPE_LAYERS))} only",
    is_slow_at_start: "is slow to import: import it inside the function that needs it",
    is_not_for_tasks: "is not for tasks and plugins, which know nothing of voxels",
    is_misplaced_plotting: "belongs inside a function of report",
    is_misplaced_dimension: "is of volumes: ask the space (nipype_blm.data.space, .kinds)",
    is_too_heavy_for_everyone: "is too heavy: everyone imports this module",
}


def find_faults(imports: Iterator[Import]) -> list[str]:
    return [
        f"{found.module}, line {found.line}: {found.target} {message}"
        for found in imports
        for breaks_rule, message in RULES.items()
        if breaks_rule(found)
    ]


@cache
def read_package() -> dict[str, list[Import]]:
    imports = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if path.parent == SCRIPTS:
                continue
            is_package = path.name == "__init__.py"
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join([package, *(parts[:-1] if is_package else parts)])
            found = read_imports(path.read_text(encoding="utf-8"), module, is_package=is_package)
            imports[module] = list(found)
    return imports


def test_what_another_python_runs_imports_nothing_of_ours():
    sources = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.py")}
    assert "serve.py" in sources
    for name, source in sources.items():
        found = read_imports(source, f"scripts.{name}")
        assert "nipype_blm" not in {each.package for each in found}, name


def test_every_module_lies_in_a_layer():
    modules = read_package().keys()
    assert {layer_of(module) for module in modules} >= set(LAYERS)
    assert {module for module in modules if layer_of(module) is None} <= FREE_MODULES


def test_the_table_of_rooms_is_in_the_order_of_the_layers():
    page = (CHECKOUT / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = re.findall(
        r"^\| `(\w+)` \|", page.partition("| Room |")[2].partition("## ")[0], re.MULTILINE
    )
    assert rooms == LAYERS


@pytest.mark.parametrize("layer", [*LAYERS, None])
def test_imports_keep_the_rules(layer):
    faults = [
        fault
        for module, imports in read_package().items()
        if layer_of(module) == layer
        for fault in find_faults(imports)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("core.ols", "from nipype_blm.data import images", is_upwards),
        ("core.ols", "from nipype_blm import model", is_upwards),
        ("core.ols", "from ..io.images import read_image", is_upwards),
        ("core.ols", "def f():\n    import nipype_blm.cli.blm", is_upwards),
        ("report.page", "from nipype_blm.interfaces import blm", is_upwards),
        ("core.ols", "import numpy as np, nibabel", is_not_for_core),
        ("stages.fit", "from nipype.utils import filemanip", is_nipype_too_low),
        ("core.ols", "from scipy import stats", is_slow_at_start),
        (
            "model.spec",
            "try:\n    import pandas as pd\nexcept ImportError:\n    pass",
            is_slow_at_start,
        ),
        ("cli.blm", "class A:\n    from distributed import Client", is_slow_at_start),
        ("report.page", "import matplotlib.pyplot as plt", is_misplaced_plotting),
        ("cli.blm", "def f():\n    from nilearn import plotting", is_misplaced_plotting),
        ("stages.plan", "import nibabel as nib", is_misplaced_dimension),
        ("stages.plan", "from nipype_blm.data.volumes import VolumeSpace", is_misplaced_dimension),
        ("results.maps", "def f():\n    from nipype_blm.data import grids", is_misplaced_dimension),
        ("errors", "import numpy", is_too_heavy_for_everyone),
        ("errors", "from .core import ols", is_too_heavy_for_everyone),
    ],
)
def test_each_rule_is_enforced(module, source, rule):
    faults = [found for found in read_imports(source, f"nipype_blm.{module}") if rule(found)]
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.ols", "import math, numpy.linalg\nfrom scipy.special import log_ndtr\nimport numba"),
        ("core.ols", "from nipype_blm import __version__\nfrom nipype_blm.errors import BlmError"),
        ("core.ols", "from . import linalg\nfrom .linalg import solve"),
        (
            "report.page",
            "def f():\n    import matplotlib.pyplot\n    from nipype_blm.data import maps",
        ),
        ("model.spec", "if TYPE_CHECKING:\n    import pandas as pd\ndef f():\n    import pandas"),
        ("interfaces.blm", "from nipype.interfaces.base import traits\nimport nipype_blm.core.ols"),
        ("workflows.blm", "from .parts import init_fit_wf\nfrom nipype_blm.interfaces import blm"),
        ("stages.plan", "from nipype_blm.data.kinds import open_space"),
        ("report.page", "import nibabel\nfrom nipype_blm.data.images import ImageReader"),
        ("errors", "import enum\ndef f():\n    from nipype_blm.core import ols"),
    ],
)
def test_allowed_imports_are_not_reported(module, source):
    assert not find_faults(read_imports(source, f"nipype_blm.{module}"))


def list_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield each name of a module that code gives or uses, with its line."""
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name


def test_no_name_outside_of_data_and_report_is_about_three_dimensions():
    """Spaces other than volumes have none; batch systems (Grid Engine) see no space at all."""
    without = DIMENSION_LAYERS | {"plugins", "tasks"}
    faults = [
        f"{path.relative_to(CHECKOUT)}, line {line}: {name}"
        for folder in FOLDERS.values()
        for path in folder.rglob("*.py")
        if path.relative_to(CHECKOUT).parts[1] not in without
        for line, name in list_names(path.read_text(encoding="utf-8"))
        if WORDS_OF_VOLUMES & set(name.lower().split("_"))
    ]
    assert not faults, "\n".join(faults)


def test_names_are_listed_wherever_they_stand():
    source = "from a import b as affine\ndef f(grid): return x.n_grid\nf(grid_size=1)"
    names = {name for _, name in list_names(source)}
    assert names == {"affine", "b", "f", "grid", "n_grid", "x", "grid_size"}


def test_every_third_party_import_is_declared_in_setup_cfg():
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    extras = [config["options.extras_require"][name] for name in EXTRAS]
    requirements = "\n".join([config["options"]["install_requires"], *extras])
    names = re.findall(r"^[\w.-]+", requirements, flags=re.MULTILINE)
    declared = {normalise(name) for name in names} | {"llvmlite"}  # llvmlite is a part of numba
    distributions = dict(packages_distributions())
    # Which need not be installed, or does not say of which modules it is.
    distributions |= {"ants": ["antspyx"], "picsl_greedy": ["picsl-greedy"]}
    undeclared = {
        f"{found.module}, line {found.line}: {found.package}"
        for imports in read_package().values()
        for found in imports
        if not found.is_standard and found.package != "nipype_blm"
        if declared.isdisjoint(map(normalise, distributions.get(found.package, [])))
    }
    assert not undeclared


def normalise(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        (
            "nipype_blm",
            ("numpy", "scipy", "numba", "nibabel", "nipype", "pydantic", *SLOW, *PLOTTING),
        ),
        ("nipype_blm.cli.blm", (*SLOW, *PLOTTING)),
    ],
)
def test_start_up_loads_no_slow_package(module, slow, tmp_path):
    program = f"import sys, {module}; print(*(name for name in {slow!r} if name in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not run.stdout.split()
