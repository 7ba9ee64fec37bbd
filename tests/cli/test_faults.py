"""Whatever ends or disturbs a run: nothing is lost, and nothing old is reported as new."""

import os
import re
import shutil
import signal
import socket
import time

import nibabel as nib
import numpy as np
import pytest
import yaml
from forked import start_command

N_IMAGES = 24
# Volumes that take so long to write that a run can be caught at it.
SHAPE = (40, 40, 30)
# No step takes this long; a run that hangs is an error and not an endless test.
LIMIT_S = 120
BALLAST = "ballast"


class Driver:
    """The command of a model, as a process of its own, in a folder of its own."""

    def __init__(self, folder, inputs, model="blm"):
        self.folder = folder
        self.outdir = folder / "out"
        self.work = self.outdir / "work"
        self.model = model
        self.config = folder / "config.yml"
        self.fields = read_fields(inputs, model) | {"outdir": "out"}

    def configure(self, **changes):
        self.fields |= changes
        if "work_dir" in changes:
            self.work = self.folder / changes["work_dir"]
        self.config.write_text(yaml.safe_dump(self.fields))

    def start(self):
        if not self.config.exists():
            self.configure()
        return start_command(self.model, self.config, folder=self.folder)

    def run(self):
        """Run to the end; return the exit code and what was printed."""
        with self.start() as process:
            return finish(process)

    def start_until(self, *moment):
        """Start, and return the process when it has made a certain file."""
        process = self.start()
        end = time.monotonic() + LIMIT_S
        while not self.has(*moment):
            assert process.poll() is None, process.said
            assert time.monotonic() < end
            time.sleep(0.001)
        return process

    def has(self, node, number=0):
        """Return whether a node has its result; "maps" while maps are being written."""
        if node == "maps":
            return any(self.outdir.glob(".nipype_blm.part/*.nii.gz"))
        folder = self.work / f"{self.model}_wf" / node
        return any(folder.glob(f"mapflow/_{node}{number}/result_*.pklz"))

    def log(self):
        return (self.work / f"{self.model}_wf" / "logs" / "nipype.log").read_text()

    def results(self):
        """Contents of everything that a user sees in the output folder."""
        paths = [*self.outdir.glob("[!.]*"), *self.outdir.glob("contrasts/[!.]*")]
        return {
            str(path.relative_to(self.outdir)): path.read_bytes()
            for path in paths
            if path.is_file() and path.name != BALLAST
        }

    def maps(self):
        return {name: data for name, data in self.results().items() if name != "inputs.yml"}


def finish(process):
    return process.wait(LIMIT_S), process.said


def errors(printed):
    return [line for line in printed.splitlines() if line.startswith("error: ")]


def executed(log):
    """Names of the nodes that were run, in their order."""
    return re.findall(r'Executing "(\w+)"', log)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def read_fields(folder, model):
    fields = {
        "Y_files": str(folder / "Y.txt"),
        "X": str(folder / "X.csv"),
        "images_per_batch": 2,
        "voxels_per_block": 4000,
        "numNodes": 1,
        "compress": True,
        "contrasts": [{"c1": {"name": "age", "vector": [0, 1]}}],
    }
    if model == "blmm":
        factor = {"name": "f", "factor": str(folder / "f.csv"), "design": str(folder / "Z.csv")}
        fields["Z"] = [{"f1": factor}]
    return fields


def save_image(path, seed):
    values = np.random.default_rng(seed).integers(1, 100, SHAPE)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


def write_inputs(folder):
    for i in range(N_IMAGES):
        save_image(folder / f"s{i:02}.nii", i)
    X = np.c_[np.ones(N_IMAGES), np.random.default_rng(0).normal(size=N_IMAGES)]
    np.savetxt(folder / "X.csv", X, fmt="%.17g", delimiter=",")
    np.savetxt(folder / "Z.csv", np.ones(N_IMAGES), fmt="%d")
    np.savetxt(folder / "f.csv", np.arange(N_IMAGES) // 4, fmt="%d")
    (folder / "Y.txt").write_text("".join(f"s{i:02}.nii\n" for i in range(N_IMAGES)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Images and tables that no test changes."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """Function that returns a run of a model that nothing disturbed."""
    runs = {}

    def run(model="blm"):
        if model not in runs:
            runs[model] = Driver(tmp_path_factory.mktemp("undisturbed"), inputs, model)
            code, printed = runs[model].run()
            assert code == 0, printed
        return runs[model]

    return run


@pytest.fixture
def driver(tmp_path, inputs):
    return Driver(tmp_path, inputs)


@pytest.mark.parametrize(
    ("model", "moment"),
    [
        ("blm", ("products", 4)),
        ("blm", ("estimates", 4)),
        ("blm", ("contrasts", 4)),
        ("blm", ("maps",)),
        ("blmm", ("estimates", 4)),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_files(
    tmp_path, inputs, undisturbed, model, moment
):
    whole = undisturbed(model)
    driver = Driver(tmp_path, inputs, model)
    with driver.start_until(*moment) as process:
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    seen = driver.maps()
    assert seen.items() <= whole.maps().items()  # what can be seen is complete
    log = driver.log()
    before = executed(log)
    code, printed = driver.run()
    assert code == 0, printed
    after = executed(driver.log()[len(log) :])
    assert driver.maps() == whole.maps()
    # The node that was killed, the last of `before`, runs again; planning always does.
    assert set(before[:-1]) & set(after) <= {"plan"}
    assert {*before, *after} == set(executed(whole.log()))
    assert names_in(driver.outdir) == names_in(whole.outdir)


def test_a_run_killed_while_it_replaces_results_leaves_whole_maps(driver, undisturbed):
    driver.configure(contrasts=[{"c1": {"name": "mean", "vector": [1, 0]}}])
    assert driver.run()[0] == 0
    old, new = driver.maps(), undisturbed().maps()
    driver.configure(contrasts=undisturbed().fields["contrasts"])
    with driver.start_until("maps") as process:
        process.kill()
        finish(process)
    for name, content in driver.maps().items():
        assert content in (old.get(name), new.get(name)), name
    assert driver.run()[0] == 0
    assert driver.maps() == new


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", [("products", 4), ("estimates", 4)], ids=lambda m: m[0])
def test_a_run_that_is_told_to_end_says_so_and_goes_on_later(driver, undisturbed, moment, name):
    number = getattr(signal, name)
    with driver.start_until(*moment) as process:
        process.send_signal(number)
        code, printed = finish(process)
    assert code == 128 + number
    assert printed.splitlines()[-1] == "Interrupted. The same command goes on from where it was."
    assert "Traceback" not in printed
    # All or nothing: where traits drops the exception, the run goes on for the fifth of a second
    # until it is raised again, in which a run as short as this one may write its maps.
    assert driver.maps() in ({}, undisturbed().maps())
    assert driver.maps() or names_in(driver.outdir) == {"work"}
    log = driver.log()
    assert driver.run()[0] == 0
    assert driver.maps() == undisturbed().maps()
    after = executed(driver.log()[len(log) :])
    assert set(executed(log)[:-1]) & set(after) <= {"plan"}


@pytest.mark.parametrize("shared", ["outdir", "work_dir"])
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(
    driver, undisturbed, tmp_path, inputs, shared
):
    driver.configure(work_dir="work")
    second = Driver(tmp_path, inputs)
    second.config = tmp_path / "second.yml"
    folders = {"outdir": "out2", "work_dir": "work2"}
    folders[shared] = driver.fields[shared]
    second.configure(**folders)
    with driver.start_until("products", 2) as process:
        process.send_signal(signal.SIGSTOP)
        before = set(tmp_path.rglob("*"))
        code, printed = second.run()
        assert set(tmp_path.rglob("*")) == before
        process.send_signal(signal.SIGCONT)
        assert finish(process)[0] == 0
    assert code == 2
    [error] = errors(printed)
    assert f"{shared} {tmp_path / driver.fields[shared]} is in use by another run" in error
    assert f"process {process.pid} on {socket.gethostname()}, started " in error
    assert "Wait until it has ended" in error
    assert driver.maps() == undisturbed().maps()
    assert not [*tmp_path.rglob("*.lock")]
    assert second.run()[0] == 0


def test_a_run_that_was_killed_does_not_keep_its_folders(driver):
    with driver.start_until("products", 2) as process:
        process.kill()
        # Without waiting for the end of the process, as a shell would.
        code, printed = driver.run()
    assert code == 0, printed


def fill(folder, *, leave):
    """Fill a disk but for some bytes; return the file that does."""
    ballast = folder / BALLAST
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - leave)
    return ballast


@pytest.mark.parametrize("field", ["work_dir", "outdir"])
def test_a_full_disk_is_named_and_old_results_stay_until_there_is_space(
    driver, undisturbed, small_disk, field
):
    driver.configure(contrasts=[{"c1": {"name": "mean", "vector": [1, 0]}}])
    if field == "outdir":
        driver.outdir = small_disk / "out"
        driver.configure(outdir=str(driver.outdir), work_dir="work")
    code, printed = driver.run()
    assert code == 0, printed
    old = driver.results()
    folder = small_disk / "out"
    shutil.rmtree(driver.work)  # so that everything is written again
    if field == "work_dir":
        folder = small_disk / "work"
        driver.configure(work_dir=str(folder))
    driver.configure(contrasts=undisturbed().fields["contrasts"])
    with driver.start_until("products", 1) as process:  # which found enough space
        process.send_signal(signal.SIGSTOP)
        # Some intermediate files of a megabyte each still find space, or some of the maps.
        ballast = fill(small_disk, leave=3_000_000 if field == "work_dir" else 500_000)
        process.send_signal(signal.SIGCONT)
        code, printed = finish(process)
    assert code == 1
    [error] = errors(printed)
    assert f"The disk of {folder} is full" in error
    assert "No space left on device" in error
    assert "free some space and run again" in error
    assert driver.results() == old
    ballast.unlink()
    code, printed = driver.run()
    assert code == 0, printed
    assert driver.maps() == undisturbed().maps()


def delete(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def corrupt(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def replace_by_another_grid(path):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), path)


def replace_by_another_image(path):
    save_image(path, 999)


DAMAGES = [delete, truncate, corrupt, replace_by_another_grid]


@pytest.fixture
def own(tmp_path):
    """A driver whose images may be changed."""
    (tmp_path / "inputs").mkdir()
    write_inputs(tmp_path / "inputs")
    return Driver(tmp_path, tmp_path / "inputs")


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_damaged_between_two_runs_is_named_and_the_results_stay(study, damage):
    assert study.run().code == 0
    before = study.maps()
    damage(study.folder / "s07.nii")
    result = study.run()
    assert result.code == 2
    assert [error for error in result.errors if "s07.nii" in error] == result.errors != []
    assert study.maps().keys() == before.keys()


def test_damaged_voxels_of_a_compressed_image_are_noticed_while_it_is_read(study):
    assert study.run().code == 0
    study.save_image("s07.nii.gz", study.values[7])
    path = study.folder / "s07.nii.gz"
    data = bytearray(path.read_bytes())
    data[-20] ^= 255
    path.write_bytes(data)
    study.write("Y.txt", (study.folder / "Y.txt").read_text().replace("s07.nii", "s07.nii.gz"))
    result = study.run()
    assert result.code == 2
    assert [error for error in result.errors if "s07.nii.gz" in error] == result.errors != []


@pytest.mark.parametrize("damage", [*DAMAGES, replace_by_another_image])
def test_an_image_that_changes_during_a_run_is_named_and_no_map_is_made(own, damage):
    image = own.folder / "inputs" / "s22.nii"  # of the last of twelve batches
    with own.start_until("products", 2) as process:
        process.send_signal(signal.SIGSTOP)
        assert not own.has("products", 10)
        damage(image)
        process.send_signal(signal.SIGCONT)
        code, printed = finish(process)
    assert code == 2
    assert errors(printed)
    assert all(str(image) in error for error in errors(printed))
    assert own.maps() == {}


def test_an_image_replaced_after_it_was_read_is_read_again_by_the_next_run(own, inputs):
    own.configure(keep="all")
    with own.start_until("products", 4) as process:
        process.send_signal(signal.SIGSTOP)
        replace_by_another_image(own.folder / "inputs" / "s00.nii")
        process.send_signal(signal.SIGCONT)
        finish(process)
    log = own.log()
    assert own.run()[0] == 0
    after = executed(own.log()[len(log) :])
    assert [name for name in after if name.startswith("_products")] == ["_products0"]
    fresh = Driver(own.folder / "fresh", own.folder / "inputs")
    fresh.folder.mkdir()
    assert fresh.run()[0] == 0
    assert own.maps() == fresh.maps()


@pytest.mark.parametrize("change", ["nothing", "an image"])
def test_a_moved_working_folder_gives_the_right_maps(study, change):
    before = study.maps_of(work_dir="w1")
    (study.folder / "w1").rename(study.folder / "w2")
    if change == "an image":
        study.values[3] = study.values[4]
        study.save_image("s03.nii", study.values[3])
    after = study.maps_of(work_dir="w2")
    assert not (study.folder / "w1").exists()
    expected = study.maps_of(outdir="fresh", work_dir="w3") if change == "an image" else before
    for name, values in after.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.parametrize("others", ["nothing", "another run"], ids=["free", "taken"])
def test_a_moved_output_folder_gives_the_right_maps(study, others):
    before = study.maps_of()
    study.outdir.rename(study.folder / "moved")
    if others == "another run":  # whose files must not be taken for those of the moved one
        study.save_image("s03.nii", study.values[4])
        assert study.run().code == 0
        study.save_image("s03.nii", study.values[3])
    study.outdir = study.folder / "moved"
    after = study.maps_of(outdir="moved", contrasts=study.fields["contrasts"][::-1])
    again = study.maps_of(outdir="moved")
    assert after.keys() == again.keys() == before.keys()
    for name in before:
        np.testing.assert_array_equal(again[name], before[name], err_msg=name)
    np.testing.assert_array_equal(after["blm_vox_beta"], before["blm_vox_beta"])
