"""The snippets of README and docs, and the study that they speak of."""

import configparser
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_study import write_data_set
from forked import fork_with_all

CHECKOUT = Path(__file__).parents[1]
# Examples that pages run as they are.
_MADE = {f"examples/{name}.py" for name in ("make_fa", "make_volume", "connected_components")}
Run = Callable[[list[str], Path], None]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Of the study that `write_study` makes: a T and an F contrast.
CONFIGURATION = """\
Y_files: images.txt
X: design.csv
outdir: results
contrasts:
  - c1: {name: age, vector: [0, 1, 0]}
  - c2: {name: both, vector: [[0, 1, 0], [0, 0, 1]]}
"""


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


def write_tables(folder: Path) -> Path:
    """Write a data set, tables of complete images, copes of FEAT and a group analysis of it."""
    write_data_set(folder / "bids")
    rng = np.random.default_rng(8)
    shape, affine = (5, 6, 4), np.diag([3.0, 3, 3, 1])

    def save(name: str, values: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / name)

    ages, visits, people, feat = rng.integers(20, 70, 12), [], [], []
    copes = 50 + rng.standard_normal((12, *shape)) + 0.2 * ages[:, None, None, None]
    for i, (age, cope) in enumerate(zip(ages, copes, strict=True)):
        subject, sex, site = f"{i + 1:02d}", "FFM"[i % 3], "ABC"[i // 4]
        for session in (1, 2):
            visits.append(f"{subject}\t{session}\t{age}\t{sex}\t{site}")
            save(f"maps/{subject}_{session}.nii.gz", cope + rng.standard_normal(shape))
        people.append(f"{subject}\t{age}\t{i % 2}")
        feat.append(f"sub-{subject}\t{site}\t{age}")
        save(f"sub-{subject}.feat/reg_standard/stats/cope1.nii.gz", cope)
    save("maps_mask.nii.gz", np.ones(shape))
    for name, header, lines in (
        ("visits.tsv", "subject\tsession\tage\tsex\tsite", visits),
        ("people.tsv", "subject_label\tage\tgroup", people),
        ("subjects.tsv", "subject\tsite\tage", feat),
    ):
        (folder / name).write_text("\n".join([header, *lines]) + "\n")
    save("group.gfeat/cope1.feat/filtered_func_data.nii.gz", np.moveaxis(copes, 0, -1))
    for place in ("", "cope1.feat/"):
        save(f"group.gfeat/{place}mask.nii.gz", np.ones(shape))
        for end, size, rows in (
            ("mat", "NumPoints", np.column_stack([np.ones(12), ages])),
            ("con", "NumContrasts", np.eye(2)),
            ("fts", "NumContrasts", np.array([[1, 1]])),
        ):
            head = f"/NumWaves\t2\n/{size}\t{len(rows)}\n\n/Matrix\n"
            body = "\n".join("\t".join(map(str, row)) for row in rows.tolist())
            (folder / f"group.gfeat/{place}design.{end}").write_text(f"{head}{body}\n")
    return folder


# They say what they were asked for; files that Nipype looks for are there.
_SMOOTHEST = """#!/bin/sh
echo smoothest "$@" >>"$FSL_LOG"
printf 'DLH 0.125\\nVOLUME 120\\nRESELS 8.5\\n'
"""
_CLUSTER = """#!/bin/sh
echo cluster "$@" >>"$FSL_LOG"
for word in "$@"; do case $word in --o*=*) : >"${word#*=}" ;; esac; done
"""


def write_fsl(folder: Path) -> dict[str, str]:
    """Write commands in the place of FSL's, which list their arguments; return what they need."""
    (folder / "fsl").mkdir()
    for name, text in {"smoothest": _SMOOTHEST, "cluster": _CLUSTER}.items():
        (folder / "fsl" / name).write_text(text)
        (folder / "fsl" / name).chmod(0o755)
    return {
        "PATH": f"{folder / 'fsl'}{os.pathsep}{os.environ['PATH']}",
        "FSL_LOG": str(folder / "fsl.log"),
        "FSLOUTPUTTYPE": "NIFTI_GZ",
        "FSLDIR": str(folder / "fsl"),
    }


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def read_config() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return config


def run_command(command: list[str], folder: Path) -> None:
    """Run a command of ours as users do."""
    run([str(Path(sysconfig.get_path("scripts"), command[0])), *command[1:]], folder)


def fork_command(command: list[str], folder: Path) -> None:
    """Run a command of ours in a process that need not import everything first.

    The commands of README, and those that start pools, run as users run them.
    """
    scripts = read_config()["options.entry_points"]["console_scripts"].split("\n")
    [entry] = [line.partition(" = ")[2] for line in scripts if line.startswith(f"{command[0]} = ")]
    module, function = entry.split(":")
    program = f"import sys; from {module} import {function}; sys.argv = {command!r}; "
    done = fork_with_all().run(f"{program}sys.exit({function}())", folder, os.environ)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def run_line(line: str, folder: Path, run_command: Run = run_command) -> None:
    """Run one line of a shell; what installs, or makes a larger data set, is not run."""
    words = shlex.split(line, comments=True)
    match words:
        case []:
            return
        case ["make", target]:
            assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", "."]:
            return
        case ["pip", "install", what]:
            extras = read_config()["options.extras_require"]
            assert set(what.removeprefix(".[").removesuffix("]").split(",")) <= set(extras)
        case ["python", "examples/make_bids.py", name]:
            write_data_set(folder / name)  # with the same names, and smaller
        case ["python", example, *arguments] if example in _MADE:
            run([sys.executable, CHECKOUT / example, *arguments], folder)
        case [
            "blm" | "blmm" | "blmm_compare" | "nipype-blm" | "nipype-blm-bids",
            *_,
        ]:
            run_command(words, folder)
        case _:
            pytest.fail(f"no rule for the command {line!r}")


def run_snippet(language: str, text: str, folder: Path, run_command: Run = run_command) -> None:
    if language == "yaml":
        name = re.match(r"# (\w+\.yml)\n", text)
        assert name, "the first line of a configuration names its file"
        (folder / name[1]).write_text(text)
    elif language == "python":
        named = re.match(r"# (\w+\.py)\n", text)
        name = named[1] if named else "snippet.py"
        (folder / name).write_text(text)
        run([sys.executable, name], folder)
    else:
        assert language == "bash", f"no rule for snippets in {language!r}"
        for line in text.splitlines():
            run_line(line, folder, run_command)


def run_snippets(page: Path, folder: Path, run_command: Run = run_command) -> None:
    text = page.read_text(encoding="utf-8")
    snippets = FENCED.findall(text)
    assert text.count("\n```") == 2 * len(snippets)
    for language, snippet in snippets:
        run_snippet(language, snippet, folder, run_command)
