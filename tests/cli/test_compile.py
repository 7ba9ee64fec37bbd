"""``nipype-blm compile`` compiles all that runs need, once."""

import os
import re
from pathlib import Path

import pytest
from cli.test_compiled_once import configure, write_study

from nipype_blm.cli.main import main
from nipype_blm.stages.samples import SAMPLES

CORE = Path(__file__).parents[2] / "nipype_blm" / "core"


def list_compiled(cache):
    return {path.name for path in cache.rglob("*.nbc")}


def test_it_says_what_it_compiles_and_how_long_that_took(compiled):
    assert re.fullmatch(
        rf"All kernels are compiled, in \d+ s: {compiled.cache}/\S+\n", compiled.out
    )
    for number, sample in enumerate(SAMPLES, 1):
        what = f"{number} of {len(SAMPLES)}, {sample.what}: "
        assert f"{what}compiling what " in compiled.err
        assert re.search(rf"^{re.escape(what)}\d+ s$", compiled.err, re.MULTILINE)


def test_every_kernel_is_in_the_cache(compiled):
    found = {name.split("-")[0] for name in list_compiled(compiled.cache)}
    kernels = {
        f"{path.stem}.{name}"
        for path in CORE.rglob("*.py")
        for name in re.findall(r"^@(?:exact_)?kernel\ndef (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(kernels) > 30
    assert kernels - found == set()


def test_a_second_call_has_nothing_to_do(compiled, fork_with_kernels, tmp_path):
    before = list_compiled(compiled.cache)
    program = "from nipype_blm.cli.main import command; command()"
    done = fork_with_kernels.run(program, tmp_path, os.environ, "compile")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Nothing to do: all kernels are compiled already")
    assert done.stderr == ""
    assert list_compiled(compiled.cache) == before


def test_quiet_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr("nipype_blm.stages.samples.SAMPLES", SAMPLES[2:3])  # the fastest
    assert main(["compile", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


LEVELS = {"name": "f", "factor": "level.txt", "design": "one.csv"}
OTHERS = {"name": "g", "factor": "other.txt", "design": "one.csv"}
SLOPES = LEVELS | {"design": "X2.csv"}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("blm", {}),
        ("blm", {"deficient": "estimable", "two_sided": True, "images_per_batch": 7}),
        ("blmm", {}),
        ("blmm", {"Z": [{"f1": SLOPES}]}),
        ("blmm", {"Z": [{"f1": SLOPES | {"correlated": False}}], "reml": 0, "n_starts": 3}),
        ("blmm", {"Z": [{"f1": LEVELS}, {"f2": OTHERS}]}),
        ("blmm", {"Z": [{"f1": SLOPES}, {"f2": OTHERS}], "method": "pSFS", "maxnit": 30}),
    ],
)
def test_a_run_that_follows_compiles_nothing(compiled, fork_with_kernels, tmp_path, model, fields):
    write_study(tmp_path, model)
    (tmp_path / "X2.csv").write_text("".join(f"1,{i % 7}\n" for i in range(20)))
    (tmp_path / "other.txt").write_text("".join(f"{i % 3}\n" for i in range(20)))
    before = list_compiled(compiled.cache)
    configure(tmp_path, **fields | ({"safeMode": 0} if model == "blmm" else {}))
    program = f"from nipype_blm.cli.{model} import command; command()"
    done = fork_with_kernels.run(program, tmp_path, os.environ, "run.yml")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "compiling" in line]
    assert list_compiled(compiled.cache) == before


def test_kernels_that_cannot_be_kept_are_not_compiled(tmp_path, monkeypatch, capsys):
    """As where neither the home nor the temporary directory can be written."""
    passing = tmp_path / "passing-abc"
    passing.mkdir()
    monkeypatch.setattr("nipype_blm.core._jit.cache_directory", lambda: passing)
    assert main(["compile"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err
    assert not passing.exists()
