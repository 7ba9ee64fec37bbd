"""A run that is cut off while it reads does not read the same images again.

The whole kind: by Ctrl-C, by a kill of the command, or of the process that reads, with each way in
which nodes run here.
"""

import os
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import yaml
from forked import start_command

from nipype_blm.io.arrayfile import ArrayFile

N_IMAGES, N_BEFORE, CHUNK = 200, 88, 32
LIMIT_S = 180
SLOW_READING = Path(__file__).parent / "slow_reading"


class Run:
    """The command, which reads 200 images in one batch, slowly."""

    def __init__(self, folder):
        self.folder = folder
        self.noted = folder / "noted.txt"
        self.hold = folder / "hold"
        rng = np.random.default_rng(0)
        for i in range(N_IMAGES):
            values = rng.normal(5, 1, (4, 4, 4)).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"s{i:03}.nii")
        np.savetxt(folder / "X.csv", np.c_[np.ones(N_IMAGES), rng.normal(size=N_IMAGES)])
        np.savetxt(folder / "f.csv", np.arange(N_IMAGES) // 4, fmt="%d")
        np.savetxt(folder / "Z.csv", np.ones(N_IMAGES), fmt="%d")
        (folder / "Y.txt").write_text("".join(f"s{i:03}.nii\n" for i in range(N_IMAGES)))

    def start(self, outdir, model, *options):
        fields = {
            "Y_files": "Y.txt",
            "X": "X.csv",
            "outdir": outdir,
            "images_per_batch": N_IMAGES,
            "numNodes": 1,
            "contrasts": [{"c1": {"name": "age", "vector": [0, 1]}}],
        }
        if model == "blmm":
            fields["Z"] = [{"f1": {"name": "f", "factor": "f.csv", "design": "Z.csv"}}]
        config = self.folder / f"{outdir}.yml"
        config.write_text(yaml.safe_dump(fields))
        self.noted.write_text("")
        # A process in a group of its own, to which a terminal would send Ctrl-C.
        environment = {
            "PYTHONPATH": str(SLOW_READING),
            "NOTED": str(self.noted),
            "HOLD": str(self.hold),
        }
        return start_command(model, config, *options, folder=self.folder, **environment)

    def n_read(self):
        return len(self.noted.read_text().splitlines())

    def wait_for(self, n, process):
        end = time.monotonic() + LIMIT_S
        while self.n_read() < n:
            assert process.poll() is None, process.said
            assert time.monotonic() < end
            time.sleep(0.005)

    def wait_until_saved(self, outdir):
        """Return when all chunks that were read are saved; nothing is read meanwhile."""
        end = time.monotonic() + LIMIT_S
        while True:
            n = self.n_read()
            time.sleep(0.1)
            paths = [*(self.folder / outdir / "work").rglob("checkpoints/*.blm")]
            n_saved = ArrayFile(paths[0]).meta["n_images"] if paths else 0
            if n_saved >= n // CHUNK * CHUNK and n == self.n_read():
                return
            assert time.monotonic() < end

    def finish(self, process):
        return process.wait(LIMIT_S), process.said

    def maps(self, outdir):
        paths = (self.folder / outdir).glob("**/*.nii")
        return {str(p.relative_to(self.folder / outdir)): p.read_bytes() for p in paths}


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)


def terminate(process):
    process.terminate()


def kill(process):
    """Kill the command; workers of a pool are not in its group, and end when they notice."""
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(started, LIMIT_S)
    assert not left


def find_reader(process):
    """Return the process that reads, which uses most of the time."""
    children = psutil.Process(process.pid).children(recursive=True)
    return max(children, key=lambda child: sum(child.cpu_times()[:2]))


def kill_reader(process):
    find_reader(process).kill()


LINEAR, MULTIPROC, DASK = (), ("--plugin", "MultiProc"), ("--plugin", "Dask")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The inputs, and the maps of runs that nothing interrupted, in a folder for each model."""
    run = Run(tmp_path_factory.mktemp("run"))
    for model in ("blm", "blmm"):
        code, printed = run.finish(run.start(f"whole_{model}", model))
        assert code == 0, printed
    return run


@pytest.mark.parametrize(
    ("model", "options", "end"),
    [
        ("blm", LINEAR, interrupt),
        ("blmm", LINEAR, terminate),
        ("blm", LINEAR, kill),
        ("blm", MULTIPROC, interrupt),
        ("blm", DASK, interrupt),
        ("blm", DASK, kill),
    ],
)
def test_what_was_read_before_an_interruption_is_not_read_again(run, model, options, end):
    out = f"{model}_{'_'.join(options)}_{end.__name__}"
    process = run.start(out, model, *options)
    run.wait_for(N_BEFORE, process)
    if is_cut := end is kill or options == DASK:  # a worker of a pool is killed, too
        run.hold.touch()  # it would go on until it notices
        run.wait_until_saved(out)
    end(process)
    run.finish(process)
    run.hold.unlink(missing_ok=True)
    n_before = run.n_read()
    assert N_BEFORE <= n_before < N_IMAGES
    code, printed = run.finish(run.start(out, model, *options))
    assert code == 0, printed
    # Of what a process is killed at, an image may have been read after the last look.
    n_saved = (n_before - is_cut) // CHUNK * CHUNK
    assert run.n_read() <= N_IMAGES - n_saved
    assert run.maps(out) == run.maps(f"whole_{model}") != {}
    assert not list((run.folder / out / "work").rglob("checkpoints"))


def test_a_worker_that_is_lost_is_followed_by_one_that_goes_on(run):
    process = run.start("out", "blm", *DASK)
    run.wait_for(N_BEFORE, process)
    kill_reader(process)
    code, printed = run.finish(process)
    assert code == 0, printed
    assert run.n_read() < N_IMAGES + CHUNK + 10  # those of a chunk, and what came until the kill
    assert run.maps("out") == run.maps("whole_blm") != {}
