"""A workflow, and a node that fits alone, keep the values of images and read them again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nipype_blm import interfaces


def ask_another_model(study: Any) -> None:
    study.X[:, 1] = np.random.default_rng(7).normal(size=len(study.X))
    study.write_design(study.X)


def test_a_workflow_that_keeps_tiles_reads_them(study, reading, same_maps):
    out = study.folder / "maps"

    def run(work: str, out_dir: Path, **options: Any) -> int:
        reading.clear()
        study.workflow(work, out_dir=out_dir, **options).run()
        return len(reading)

    tiles = study.folder / "work" / "blm_wf" / "tiles"
    assert run("work", out) == 12
    assert not tiles.exists()
    assert run("work", out, keep="tiles") == 12  # what has no tiles is not what was asked for
    first, second, third = sorted(tiles.iterdir())
    ask_another_model(study)
    assert run("work", out, keep="tiles") == 0
    second.write_bytes(second.read_bytes()[:-10])
    third.unlink()
    assert run("work", out, keep="tiles") == 8
    assert run("work", out, keep="tiles", images_per_batch=6) == 0
    assert len(list(tiles.iterdir())) == 2
    assert not first.exists()
    assert run("fresh", study.folder / "fresh_maps", images_per_batch=6) == 12
    same_maps(out, study.folder / "fresh_maps")


@pytest.mark.parametrize("model", ["BLM", "BLMM"])
def test_a_node_that_fits_alone_keeps_tiles_in_its_work_dir(study, reading, model, same_maps):
    (study.folder / "f.txt").write_text("".join(f"{i % 3}\n" for i in range(12)))
    (study.folder / "Z.csv").write_text("1\n" * 12)
    names = {"factor": str(study.folder / "f.txt"), "design": str(study.folder / "Z.csv")}

    def run(work: str, fit_model: str = "BLM", **options: Any) -> int:
        inputs = {
            "in_files": [str(path) for path in study.images],
            "design_file": study.design_file,
            "contrasts": [{"name": "age", "vector": [0, 1, 0]}],
            "work_dir": str(study.folder / work),
            "out_dir": str(study.folder / f"{work}_{fit_model}"),
            "images_per_batch": 4,
        }
        if fit_model == "BLMM":
            inputs["random_factors"] = [{"name": "f", **names}]
        folder = study.folder / "node"
        folder.mkdir(exist_ok=True)
        reading.clear()
        getattr(interfaces, fit_model)(**inputs | options).run(cwd=str(folder))
        return len(reading)

    assert run("work", keep="tiles") == 12
    tiles = study.folder / "work" / ".blm_work" / "tiles"
    assert len(list(tiles.iterdir())) == 3
    ask_another_model(study)
    assert run("work", model) == 0
    assert run("fresh", model) == 12
    expected, found = (study.folder / f"{work}_{model}" for work in ("fresh", "work"))
    if model == "BLM":
        same_maps(found, expected)
    next(tiles.iterdir()).unlink()
    assert run("work", model, keep="tiles") <= 12
    assert len(list(tiles.iterdir())) == 3
