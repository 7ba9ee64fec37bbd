"""The snippets of README and docs, and the study that they speak of."""

import configparser
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_study(folder: Path) -> Path:
    """Write what the snippets mention: 20 tiny images, designs, labels, lists and a mask."""
    rng = np.random.default_rng(7)
    shape, affine = (6, 7, 5), np.diag([8.0, 8, 8, 1])
    (folder / "images").mkdir()
    design = np.column_stack([np.ones(20), rng.uniform(-3, 3, 20), np.arange(20) % 2])
    names = [f"images/sub-{i:02d}.nii.gz" for i in range(20)]
    for name, row in zip(names, design, strict=True):
        values = 100 + rng.standard_normal(shape) + 2 * row[1]
        values[rng.random(shape) < 0.1] = 0
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / name)
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), affine), folder / "mask.nii.gz")
    (folder / "images.txt").write_text("\n".join(names))
    np.savetxt(folder / "design.csv", design, "%g", ",", header="one,age,group", comments="")
    np.savetxt(folder / "random.csv", design[:, :2], "%g", ",", header="one,age", comments="")
    (folder / "intercept.csv").write_text("one\n" + "1\n" * 20)
    (folder / "person.txt").write_text("".join(f"sub-{i // 4}\n" for i in range(20)))
    (folder / "commands.txt").write_text("echo one\\necho two\\n")
    (folder / "scanner.txt").write_text("".join(f"{i % 3}\n" for i in range(20)))
    return folder


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def run_line(line: str, folder: Path) -> None:
    """Run one line of a shell; `make` and `pip install` are only checked."""
    words = shlex.split(line, comments=True)
    match words:
        case []:
            return
        case ["make", target]:
            assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", "."]:
            return
        case ["pip", "install", what]:
            config = configparser.ConfigParser(interpolation=None)
            config.read(CHECKOUT / "setup.cfg")
            assert what.removeprefix(".[").removesuffix("]") in config["options.extras_require"]
        case ["blm" | "blmm" | "blmm_compare" | "nipype-blm" as command, *arguments]:
            run([str(Path(sysconfig.get_path("scripts"), command)), *arguments], folder)
        case _:
            pytest.fail(f"no rule for the command {line!r}")


def run_snippet(language: str, text: str, folder: Path) -> None:
    if language == "yaml":
        name = re.match(r"# (\w+\.yml)\n", text)
        assert name, "the first line of a configuration names its file"
        (folder / name[1]).write_text(text)
    elif language == "python":
        (folder / "snippet.py").write_text(text)
        run([sys.executable, "snippet.py"], folder)
    else:
        assert language == "bash", f"no rule for snippets in {language!r}"
        for line in text.splitlines():
            run_line(line, folder)


def run_snippets(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    snippets = FENCED.findall(text)
    assert text.count("\n```") == 2 * len(snippets)
    for language, snippet in snippets:
        run_snippet(language, snippet, folder)
