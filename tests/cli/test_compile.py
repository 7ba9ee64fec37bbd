"""``nipype-blm compile`` compiles all that runs need, once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli.test_compiled_once import run_command, write_study

from nipype_blm.cli.main import main
from nipype_blm.stages.samples import SAMPLES

CORE = Path(__file__).parents[2] / "nipype_blm" / "core"


def compile_all(cache, *options):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nipype_blm.cli.main", "compile", *options],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def list_compiled(cache):
    return {path.name for path in cache.rglob("*.nbc")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that was new, and what the command said while it filled it.

    `.ci/run` has called it already, and says where that is: all other tests use a copy.
    """
    folder = os.environ.get("NIPYPE_BLM_TEST_KERNELS")
    if folder is None:
        cache = tmp_path_factory.mktemp("cache")
        return cache, compile_all(cache)
    said = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    return Path(folder, "compiled"), subprocess.CompletedProcess([], 0, *said)


def test_it_says_what_it_compiles_and_how_long_that_took(compiled):
    cache, done = compiled
    assert re.fullmatch(rf"All kernels are compiled, in \d+ s: {cache}/\S+\n", done.stdout)
    for number, sample in enumerate(SAMPLES, 1):
        what = f"{number} of {len(SAMPLES)}, {sample.what}: "
        assert f"{what}compiling what " in done.stderr
        assert re.search(rf"^{re.escape(what)}\d+ s$", done.stderr, re.MULTILINE)


def test_every_kernel_is_in_the_cache(compiled):
    found = {name.split("-")[0] for name in list_compiled(compiled[0])}
    kernels = {
        f"{path.stem}.{name}"
        for path in CORE.rglob("*.py")
        for name in re.findall(r"^@(?:exact_)?kernel\ndef (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(kernels) > 30
    assert kernels - found == set()


def test_a_second_call_has_nothing_to_do(compiled):
    cache, _ = compiled
    before = list_compiled(cache)
    done = compile_all(cache)
    assert done.stdout.startswith("Nothing to do: all kernels are compiled already")
    assert done.stderr == ""
    assert compile_all(cache, "--quiet").stdout == ""
    assert list_compiled(cache) == before


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
def test_a_run_that_follows_compiles_nothing(compiled, tmp_path, model, fields):
    cache, _ = compiled
    write_study(tmp_path, model)
    (tmp_path / "X2.csv").write_text("".join(f"1,{i % 7}\n" for i in range(20)))
    (tmp_path / "other.txt").write_text("".join(f"{i % 3}\n" for i in range(20)))
    (tmp_path / "cache").symlink_to(cache)
    before = list_compiled(cache)
    said = run_command(tmp_path, model, **fields | ({"safeMode": 0} if model == "blmm" else {}))
    assert not [line for line in said if "compiling" in line]
    assert list_compiled(cache) == before


def test_kernels_that_cannot_be_kept_are_not_compiled(tmp_path, monkeypatch, capsys):
    """As where neither the home nor the temporary directory can be written."""
    passing = tmp_path / "passing-abc"
    passing.mkdir()
    monkeypatch.setattr("nipype_blm.core._jit.cache_directory", lambda: passing)
    assert main(["compile"]) == 1
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err
    assert not passing.exists()
