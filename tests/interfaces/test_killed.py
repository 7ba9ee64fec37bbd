"""A one-node run that was killed goes on where it was, and nothing stale is used.

The whole kind: killed while it reads, fits, tests or assembles, or interrupted; as a node or by
itself; with images, the model or its intermediate files changed before it goes on; and two runs at
the same time in one place.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from forked import Forked, fork_with_all
from nipype.pipeline.engine import Node

from nipype_blm import interfaces
from nipype_blm.data.images import ImageReader

N_IMAGES, PER_BATCH, CHUNK = 160, 40, 32
SHAPE = (4, 4, 4)
WORK_FOLDER = ".blm_work"
SLOW_READING = Path(__file__).parents[1] / "cli" / "slow_reading"
LIMIT_S = 180

# The images that are read are noted, and that slowly; a stage may end the process.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from nipype.pipeline.engine import Node, Workflow
from nipype_blm import interfaces
from nipype_blm.plugins import DaskPlugin
from nipype_blm.stages import run

given = json.loads(sys.argv[1])
stage = given["killed_in"]
if stage:
    def end(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(run, stage, end)
fit = getattr(interfaces, given["interface"])(**given["inputs"])
folder = Path(given["folder"])
if given["on_pool"]:
    workflow = Workflow(folder.name, base_dir=str(folder.parent))
    workflow.config["execution"] = {"crashdump_dir": str(folder)}
    workflow.add_nodes([Node(fit, name="fit")])
    workflow.run(plugin=DaskPlugin({"cluster": "local", "n_procs": 1, "n_workers": 1}))
elif given["as_node"]:
    Node(fit, name="fit", base_dir=str(folder)).run()
else:
    fit.run(cwd=str(folder / "fit"))
"""


class Study:
    """Images in four batches, and one-node runs of models of them in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.noted = folder / "noted.txt"
        self.list_file = folder / "Y.txt"
        self.images = [folder / f"s{i:03}.nii" for i in range(N_IMAGES)]
        rng = np.random.default_rng(0)
        for path in self.images:
            self.write_image(path, rng)
        self.list_file.write_text("".join(f"{path}\n" for path in self.images))
        X = np.c_[np.ones(N_IMAGES), rng.normal(size=N_IMAGES)]
        np.savetxt(folder / "X.csv", X, delimiter=",")
        np.savetxt(folder / "f.csv", np.arange(N_IMAGES) // 4, fmt="%d")
        np.savetxt(folder / "Z.csv", np.ones(N_IMAGES), fmt="%d")

    def write_image(self, path: Path, rng: np.random.Generator) -> None:
        values = rng.normal(5, 1, SHAPE).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)

    def start(
        self,
        place: str,
        interface: str = "BLM",
        as_node: bool = True,
        killed_in: str | None = None,
        on_pool: bool = False,
        **changes: Any,
    ) -> Forked:
        given = {
            "interface": interface,
            "as_node": as_node,
            "killed_in": killed_in,
            "on_pool": on_pool,
            "folder": str(self.folder / place),
            "inputs": self.list_inputs(place, interface) | changes,
        }
        self.noted.write_text("")
        environment = {"PYTHONPATH": str(SLOW_READING), "NOTED": str(self.noted)}
        return fork_with_all().start(
            PROGRAM, self.folder, os.environ | environment, json.dumps(given)
        )

    def list_inputs(self, place: str, interface: str) -> dict[str, Any]:
        (self.folder / place / "fit").mkdir(parents=True, exist_ok=True)
        inputs: dict[str, Any] = {
            "in_files": str(self.list_file),
            "design_file": str(self.folder / "X.csv"),
            "contrasts": [{"name": "age", "vector": [0, 1]}],
            "images_per_batch": PER_BATCH,
            "voxels_per_block": 30,
        }
        if interface == "BLMM":
            names = {"factor": str(self.folder / "f.csv"), "design": str(self.folder / "Z.csv")}
            inputs["random_factors"] = [{"name": "f", **names}]
        return inputs

    def run(
        self, place: str, interface: str = "BLM", as_node: bool = True, **changes: Any
    ) -> list[str]:
        """Run to the end, in this process; return the names of the images that were read."""
        fit = getattr(interfaces, interface)(**self.list_inputs(place, interface) | changes)
        folder, noted, read = self.folder / place, [], ImageReader.read

        def note(reader: ImageReader, path: Path, *rest: Any) -> Any:
            noted.append(path.name)
            return read(reader, path, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageReader, "read", note)
            if as_node:
                Node(fit, name="fit", base_dir=str(folder)).run()
            else:
                fit.run(cwd=str(folder / "fit"))
        return noted

    def end(
        self, place: str, *arguments: Any, after: int = 0, how: int = signal.SIGKILL, **given: Any
    ) -> list[str]:
        """Start, and end it when a number of images have been read; return their names."""
        process = self.start(place, *arguments, **given)
        if after:
            self.wait_for(after, process)
            os.killpg(process.pid, how)
        assert process.wait(LIMIT_S) != 0
        assert (self.folder / place / "fit" / WORK_FOLDER).is_dir()
        return self.read()

    def wait_for(self, n: int, process: Forked) -> None:
        """Wait until n images have been read."""
        limit = time.monotonic() + LIMIT_S
        while len(self.read()) < n:
            assert process.poll() is None, process.said
            assert time.monotonic() < limit
            time.sleep(0.005)

    def read(self) -> list[str]:
        return self.noted.read_text().split()

    def work_folder(self, place: str) -> Path:
        return self.folder / place / "fit" / WORK_FOLDER

    def maps(self, place: str) -> dict[str, bytes]:
        folder = self.folder / place / "fit"
        maps = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.nii")}
        assert maps
        return maps


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Images, and the maps of runs that nothing ended, in a folder for each interface."""
    study = Study(tmp_path_factory.mktemp("study"))
    for interface in ("BLM", "BLMM"):
        assert len(study.run(f"whole {interface}", interface)) == N_IMAGES
    return study


@pytest.mark.parametrize(
    ("interface", "as_node", "how"),
    [
        ("BLM", True, signal.SIGKILL),
        ("BLM", True, signal.SIGINT),
        ("BLM", False, signal.SIGKILL),
        ("BLM", False, signal.SIGINT),
        ("BLMM", True, signal.SIGKILL),
        ("BLMM", False, signal.SIGKILL),
    ],
)
def test_images_that_were_read_before_the_end_are_not_read_again(
    study: Study, interface: str, as_node: bool, how: int
) -> None:
    place = f"{interface} {as_node} {how}"
    before = study.end(place, interface, as_node, after=2 * PER_BATCH + CHUNK + 3, how=how)
    again = study.run(place, interface, as_node)
    assert not study.work_folder(place).exists()
    known = 2 * PER_BATCH + CHUNK  # two batches, and the first chunk of the third
    assert not set(before[:known]) & set(again)
    assert len(again) == N_IMAGES - known
    assert study.maps(place) == study.maps(f"whole {interface}")


STAGES = ["compute_products", "compute_estimates", "compute_statistics", "assemble_maps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_in_any_stage_goes_on(study: Study, stage: str) -> None:
    assert len(study.end(stage, killed_in=stage)) == (0 if stage == STAGES[0] else N_IMAGES)
    done = (study.work_folder(stage) / "journal.jsonl").exists() and {
        json.loads(line)["output"].partition("_")[0]
        for line in (study.work_folder(stage) / "journal.jsonl").read_text().splitlines()
    }
    assert (done or set()) == {"products", "estimates", "statistics"} - {
        name.removeprefix("compute_") for name in STAGES[STAGES.index(stage) :]
    }
    assert study.work_folder(stage).stat().st_mode & 0o077 == 0  # nobody else can enter it
    assert len(study.run(stage)) == (N_IMAGES if stage == STAGES[0] else 0)
    assert study.maps(stage) == study.maps("whole BLM")


def test_a_run_may_be_killed_again_and_again(study: Study) -> None:
    for _ in range(3):
        study.end("again", after=PER_BATCH + 3)
    assert len(study.run("again")) == N_IMAGES - 3 * PER_BATCH
    assert study.maps("again") == study.maps("whole BLM")


def test_a_node_whose_worker_is_lost_goes_on_on_another_one(study: Study) -> None:
    process = study.start("pool", on_pool=True)
    study.wait_for(2 * PER_BATCH + CHUNK + 3, process)
    children = psutil.Process(process.pid).children(recursive=True)
    max(children, key=lambda child: sum(child.cpu_times()[:2])).kill()  # who reads
    assert process.wait(LIMIT_S) == 0, process.said
    assert len(study.read()) < N_IMAGES + CHUNK  # those of a chunk, and what came until the kill
    assert study.maps("pool") == study.maps("whole BLM")


# -- What has changed before it goes on --------------------------------------------------------


@pytest.fixture
def own_study(tmp_path: Path) -> Study:
    """Images that a test may change."""
    return Study(tmp_path)


def replace_image(study: Study) -> None:
    study.write_image(study.images[50], np.random.default_rng(1))


def replace_image_by_one_of_another_time(study: Study) -> None:
    """Change what a resumed run could miss: not the size, and hardly the time."""
    state = study.images[50].stat()
    replace_image(study)
    os.utime(study.images[50], ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def change_design(study: Study) -> None:
    X = np.c_[np.ones(N_IMAGES), np.random.default_rng(2).normal(size=N_IMAGES)]
    np.savetxt(study.folder / "X.csv", X, delimiter=",")


def exchange_images(study: Study) -> None:
    lines = study.list_file.read_text().splitlines()
    lines[50], lines[10] = lines[10], lines[50]
    study.list_file.write_text("\n".join(lines))


def change_nothing(study: Study) -> None:
    pass


# What changes, which inputs are given then, and how many images are read again.
CHANGES: dict[str, tuple[Callable[[Study], None], dict[str, Any], int]] = {
    "image": (replace_image, {}, PER_BATCH),
    "image, hardly later": (replace_image_by_one_of_another_time, {}, PER_BATCH),
    "order": (exchange_images, {}, 2 * PER_BATCH),
    "design": (change_design, {}, N_IMAGES),
    "contrast": (change_nothing, {"contrasts": [{"name": "mean", "vector": [1, 0]}]}, 0),
    "blocks": (change_nothing, {"voxels_per_block": 64}, N_IMAGES),
    "batches": (change_nothing, {"images_per_batch": 80}, N_IMAGES),
}


@pytest.mark.parametrize(
    ("what", "as_node"),
    [*((what, False) for what in CHANGES), ("image", True), ("design", True)],
)
def test_what_is_made_from_something_else_is_not_used(
    own_study: Study, what: str, as_node: bool
) -> None:
    """A node of which an input has changed begins anew, as Nipype's nodes do."""
    change, given, n_read = CHANGES[what]
    own_study.end("here", as_node=as_node, killed_in="assemble_maps")
    change(own_study)
    read = own_study.run("here", as_node=as_node, **given)
    assert own_study.run("whole", as_node=False, **given)
    assert own_study.maps("here") == own_study.maps("whole")
    is_seen_by_nipype = as_node and not what.startswith("image")  # it sees the list of them
    assert len(read) == (N_IMAGES if is_seen_by_nipype else n_read)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Change a bit, and no time, as a disk does that is about to fail."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_an_intermediate_file_that_was_damaged_is_made_again(study: Study, damage: Any) -> None:
    place = f"damage {damage.__name__}"
    study.end(place, killed_in="assemble_maps")
    for name in ("products_0002.blm", "estimates_0001.blm", "statistics_0000.blm"):
        damage(study.work_folder(place) / name)
    read = study.run(place)
    assert read == [path.name for path in study.images[2 * PER_BATCH : 3 * PER_BATCH]]
    assert study.maps(place) == study.maps("whole BLM")


def test_a_journal_that_was_torn_by_a_loss_of_power_costs_one_task(study: Study) -> None:
    study.end("torn", after=2 * PER_BATCH + 3)
    path = study.work_folder("torn") / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    assert len(study.run("torn")) == N_IMAGES - PER_BATCH
    assert study.maps("torn") == study.maps("whole BLM")


# -- Others in the same place ------------------------------------------------------------------


def test_two_runs_at_the_same_time_in_one_place_are_both_right(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    first = study.start("both", as_node=False, out_dir="one")
    study.wait_for(10, first)
    os.killpg(first.pid, signal.SIGSTOP)
    fit = interfaces.BLM(**study.list_inputs("both", "BLM"), out_dir="two")
    fit.run(cwd=str(study.folder / "both" / "fit"))
    assert "is held by process" in caplog.text
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(LIMIT_S) == 0, first.said
    found = study.maps("both")
    for name, content in study.maps("whole BLM").items():
        assert found[name.replace("blm/", "one/")] == content
        assert found[name.replace("blm/", "two/")] == content
    names = {path.name for path in (study.folder / "both" / "fit").iterdir()}
    assert names == {"one", "two"}


@pytest.mark.parametrize("kind", ["link", "of all", "file"])
def test_what_others_could_have_written_is_not_used(study: Study, kind: str) -> None:
    place, other = f"not ours {kind}", study.folder / f"theirs {kind}"
    folder = study.work_folder(place)
    study.end(place, as_node=False, killed_in="assemble_maps")
    if kind == "link":
        folder.rename(other)
        folder.symlink_to(other)
    elif kind == "of all":
        folder.chmod(0o777)
    else:
        folder.rename(other)
        folder.write_text("mine")
    assert len(study.run(place, as_node=False)) == N_IMAGES
    assert study.maps(place) == study.maps("whole BLM")
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"blm", WORK_FOLDER}  # what is not ours stays as it is
    assert kind == "of all" or (other / "journal.jsonl").exists()
