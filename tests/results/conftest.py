"""Runs of a few voxels, made in every way, whose inputs a test may take away."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from snippets import write_study

from nipype_blm.cli.blm import main
from nipype_blm.interfaces import BLM, BLMM
from nipype_blm.workflows import init_blm_wf, init_blmm_wf

CONTRASTS = [
    {"name": "age", "vector": [0, 1, 0]},
    {"name": "age or <group>", "vector": [[0, 1, 0], [0, 0, 1]]},
]
FACTORS = [
    {"name": "person", "factor": "person.txt", "design": "random.csv", "correlated": False},
]
CONFIGURATION = """\
Y_files: images.txt
X: design.csv
outdir: {outdir}
compress: {compress}
contrasts:
  - c1: {{name: age, vector: [0, 1, 0]}}
  - c2: {{name: age or <group>, vector: [[0, 1, 0], [0, 0, 1]]}}
"""
MIXED = """\
Z:
  - f1: {name: person, factor: person.txt, design: random.csv, correlated: false}
"""


class Study:
    """A study of 20 images of five people, and the ways of fitting it."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_study(folder)
        self.X = np.genfromtxt(folder / "design.csv", delimiter=",", skip_header=1)

    def command(self, model: str, outdir: str, compress: bool = False, more: str = "") -> Path:
        text = CONFIGURATION.format(outdir=outdir, compress=str(compress).lower())
        path = self.folder / f"{outdir}.yml"
        path.write_text(text + MIXED * (model == "blmm") + more)
        assert main(["--quiet", str(path)], model) == 0
        return self.folder / outdir

    def traits(self, model: str) -> dict[str, object]:
        given: dict[str, object] = {
            "in_files": str(self.folder / "images.txt"),
            "design_file": str(self.folder / "design.csv"),
            "contrasts": CONTRASTS,
        }
        if model == "blmm":
            files = ("factor", "design")
            given["random_factors"] = [
                each | {name: str(self.folder / each[name]) for name in files} for each in FACTORS
            ]
        return given

    def node(self, model: str, outdir: str) -> Path:
        interface = {"blm": BLM, "blmm": BLMM}[model](**self.traits(model))
        interface.inputs.out_dir = str(self.folder / outdir)
        interface.run(cwd=self.folder)
        return self.folder / outdir

    def workflow(self, model: str, outdir: str) -> Path:
        init_wf = {"blm": init_blm_wf, "blmm": init_blmm_wf}[model]
        workflow = init_wf(out_dir=self.folder / outdir, voxels_per_block=60, images_per_batch=6)
        workflow.inputs.inputnode.trait_set(**self.traits(model))
        workflow.base_dir = str(self.folder / "work_of_workflow")
        workflow.run()
        return self.folder / outdir

    def take_away(self, *kept: Path) -> list[Path]:
        """Move results elsewhere, and remove all else: images, tables, configuration, work."""
        elsewhere = self.folder.parent / "elsewhere"
        elsewhere.mkdir()
        moved = [Path(shutil.move(folder, elsewhere / folder.name)) for folder in kept]
        for folder in moved:
            shutil.rmtree(folder / "work", ignore_errors=True)
            (folder / "inputs.yml").unlink()
        shutil.rmtree(self.folder)
        return moved


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[[], Study]:
    """Function that writes the study."""

    def make() -> Study:
        (tmp_path / "study").mkdir()
        return Study(tmp_path / "study")

    return make


@pytest.fixture
def study(make_study: Callable[[], Study]) -> Study:
    return make_study()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of both models, which nobody changes, and of which nothing else is left."""
    folder = tmp_path_factory.mktemp("runs") / "study"
    folder.mkdir()
    study = Study(folder)
    made = [study.command("blm", "linear"), study.command("blmm", "mixed", compress=True)]
    linear, mixed = study.take_away(*made)
    return {"blm": linear, "blmm": mixed}
