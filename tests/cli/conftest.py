"""A small study on disk, and the ``blm`` command run on it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml
from forked import Forker

from nipype_blm.cli.blm import main
from nipype_blm.frontends.blm import read

SHAPE = (4, 3, 2)
AFFINE = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1.0]])
N_IMAGES = 12


def read_map(path):
    """Return a copy: a memory map would change with the file."""
    return np.asarray(nib.load(path).dataobj).copy()


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self):
        """The problems reported, one line each."""
        return [
            line.removeprefix("error: ")
            for line in self.err.splitlines()
            if line.startswith("error: ")
        ]


class Study:
    """Twelve images with missing data, a design of three columns, a T and an F contrast.

    Values are integers that every type of image holds exactly; 0 is missing.
    """

    model = "blm"  # whose command is run

    def __init__(self, folder, capsys):
        self.folder = folder
        self.outdir = folder / "out"
        self._capsys = capsys
        rng = np.random.default_rng(0)
        self.X = np.c_[np.ones(N_IMAGES), np.arange(N_IMAGES) % 2, rng.normal(size=N_IMAGES)]
        self.values = rng.integers(1, 100, (N_IMAGES, *SHAPE))
        self.values[rng.random(self.values.shape) < 0.15] = 0
        self.values[:, 0, 0, 0] = 0  # no data
        self.values[2:, 1, 0, 0] = 0  # too few images
        for i in range(N_IMAGES):
            self.save_image(f"s{i:02}.nii", self.values[i])
        self.write("Y.txt", "".join(f"s{i:02}.nii\n" for i in range(N_IMAGES)))
        self.write_design(self.X)
        self.fields = {
            "Y_files": "Y.txt",
            "X": "X.csv",
            "outdir": "out",
            "contrasts": [
                {"c1": {"name": "age", "vector": [0, 0, 1]}},
                {"c2": {"name": "any", "vector": [[0, 1, 0], [0, 0, 1]]}},
            ],
        }

    def write(self, name, text):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def write_design(self, X):
        np.savetxt(self.folder / "X.csv", X, fmt="%.17g", delimiter=",")

    def save_image(self, name, values, dtype=np.float32, affine=AFFINE, cls=nib.Nifti1Image):
        path = self.folder / name
        nib.save(cls(np.asarray(values, dtype), affine), path)
        return path

    def compress_image(self, name="s07.nii"):
        """Replace an image by a compressed one, whose damage shows only when it is read."""
        path = self.save_image(f"{name}.gz", self.values[int(name[1:3])])
        lines = (self.folder / "Y.txt").read_text()
        self.write("Y.txt", lines.replace(name, path.name))
        return path

    def configure(self, *, to="blm.yml", **changes):
        """Write a configuration; None leaves a field out."""
        fields = {k: v for k, v in (self.fields | changes).items() if v is not None}
        return self.write(to, yaml.safe_dump(fields, sort_keys=False))

    def ask(self, **changes):
        """Configure, and return the request."""
        return read(self.configure(**changes), self.model)

    def command(self, *arguments):
        """Run the command and catch what it prints, but for the line that it begins with."""
        self._capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments], self.model)
        except SystemExit as exit_:
            code = exit_.code
        out, err = self._capsys.readouterr()
        return Result(code, out, re.sub(rf"^{self.model} [\w.]+: checking .* \.\.\.\n", "", err))

    def run(self, *options, **changes):
        """Configure and run."""
        return self.command(self.configure(**changes), *options)

    def maps_of(self, **changes):
        """Configure, run, and return all maps."""
        result = self.run(**changes)
        assert result.code == 0, result.err
        return self.maps()

    def path(self, name):
        [path] = self.outdir.glob(f"{name}.nii*")
        return path

    def map(self, name):
        return read_map(self.path(f"{self.model}_vox_{name}"))

    def maps(self):
        return {
            path.name.split(".nii")[0]: read_map(path)
            for path in sorted(self.outdir.rglob("*.nii*"))
            if "work" not in path.relative_to(self.outdir).parts
        }

    def results(self):
        """Names of everything in the output folder but the work folder."""
        return {p.name for p in self.outdir.iterdir()} - {"work"} if self.outdir.exists() else set()

    def sidecar(self, name):
        return json.loads((self.outdir / f"{name}.json").read_text())

    def fit(self, present=None, values=None):
        """Return n, beta and resms of each voxel by numpy.linalg.lstsq; NaN where not fitted."""
        values = self.values if values is None else values
        present = values != 0 if present is None else present
        n = present.sum(axis=0)
        p = self.X.shape[1]
        beta = np.full((*SHAPE, p), np.nan)
        resms = np.full(SHAPE, np.nan)
        for voxel in np.ndindex(*SHAPE):
            rows = present[(slice(None), *voxel)]
            X, y = self.X[rows], values[(slice(None), *voxel)][rows]
            if n[voxel] <= p + 1 or np.linalg.matrix_rank(X) < p:
                continue
            beta[voxel], [rss], *_ = np.linalg.lstsq(X, y)
            resms[voxel] = rss / (n[voxel] - p)
        return n, beta, resms


def snapshot(folder: Path):
    """Return the contents of all files of a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def study(tmp_path, capsys):
    return Study(tmp_path, capsys)


class Kernels(NamedTuple):
    """A cache of all kernels, and what the command said while it filled it."""

    cache: Path
    out: str
    err: str


def compile_all(cache, *options):
    """Run ``nipype-blm compile`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nipype_blm.cli.main", "compile", *options],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """All kernels, compiled from nothing.

    `.ci/run` has done it already, and says where they are: all other tests use a copy.
    """
    folder = os.environ.get("NIPYPE_BLM_TEST_KERNELS")
    if folder is None:
        cache = tmp_path_factory.mktemp("cache")
        done = compile_all(cache)
        return Kernels(cache, done.stdout, done.stderr)
    said = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
    return Kernels(Path(folder, "compiled"), *said)


@pytest.fixture(scope="session")
def fork_with_kernels(compiled):
    """What runs programs in processes that have imported the package and use all kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(compiled.cache))
        forker = Forker("import nipype_blm.cli.fit, nipype_blm.stages.run, nipype_blm.workflows")
    yield forker
    forker.close()


@pytest.fixture
def contents_of():
    return snapshot


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted: run as root on Linux")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
