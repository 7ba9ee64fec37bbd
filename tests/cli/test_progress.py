"""Progress says how far a run is: what is to be done, what was done before, and what has failed.

The whole kind: totals that are not known or count what nobody does (background), work that is
there already and counts as nothing, interruptions that look like failures, nodes that run where
nobody hears them, and lines where there is no terminal, a narrow one, or none is wanted.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from types import SimpleNamespace

import pytest

from nipype_blm.cli.progress import show_progress
from nipype_blm.progress import ANNOUNCE, COMPILING, advance
from nipype_blm.signals import interruptible


class Work:
    """A run of batches and blocks, some of which an earlier run has left."""

    def __init__(self, images=(100,), voxels=(7,), batches=(), blocks=(), resamplings=()):
        self.n_images, self._voxels = list(images), list(voxels)
        self.n_resamplings = list(resamplings)
        self._batches, self._blocks = set(batches), set(blocks)

    def find_batches(self):
        return self._batches

    def find_blocks(self):
        return self._blocks

    def count_voxels(self):
        return self._voxels


def node(name):
    return SimpleNamespace(name=name)


def end(note, *names):
    for name in names:
        note(node(name), "start")
        note(node(name), "end")


def lines_of(captured):
    assert captured.out == ""
    return [line for line in captured.err.splitlines() if not line.startswith("nodes:")]


def test_each_tenth_gives_one_line(capsys):
    with show_progress(Work()):
        for _ in range(100):
            advance("images", 1)
        advance("voxels", 7)
    assert lines_of(capsys.readouterr()) == [
        *[f"reading images: {n} of 100" for n in range(10, 101, 10)],
        "fitting voxels: 7 of 7",
    ]


def test_what_an_earlier_run_has_done_counts_from_the_start(capsys):
    with show_progress(Work((40, 40, 20), (5, 5), {0, 1}, {1})):
        advance("images", 20)
        advance("voxels", 5)
    assert lines_of(capsys.readouterr()) == [
        "images read by an earlier run: 80 of 100",
        "voxels fitted by an earlier run: 5 of 10",
        "reading images: 100 of 100",
        "fitting voxels: 10 of 10",
    ]


def test_nodes_that_run_where_nobody_hears_them_count_when_they_end(capsys):
    """As with MultiProc, SLURM or SGE; what is cached ends, too, and counts once."""
    with show_progress(Work((40, 40, 20), (5, 5), {0}, ())) as note:
        end(note, "plan", "_products0", "_products2", "_products1", "products")
        end(note, "_estimates1", "_estimates0", "estimates", "assemble")
    assert lines_of(capsys.readouterr()) == [
        "images read by an earlier run: 40 of 100",
        "reading images: 60 of 100",
        "reading images: 100 of 100",
        "fitting voxels: 5 of 10",
        "fitting voxels: 10 of 10",
    ]


def test_nodes_that_tell_of_each_image_count_once(capsys):
    with show_progress(Work((40, 60))) as note:
        advance("images", 40)
        end(note, "_products0")
        advance("images", 60)
        end(note, "_products1", "products")
    assert [line[16:] for line in lines_of(capsys.readouterr())] == ["40 of 100", "100 of 100"]


def test_images_that_a_lost_worker_had_read_do_not_exceed_the_total(capsys):
    with show_progress(Work()):
        advance("images", 70)
        advance("images", 100)
    assert lines_of(capsys.readouterr())[-1] == "reading images: 100 of 100"


def test_a_run_without_any_voxel_divides_by_nothing(capsys):
    with show_progress(Work(voxels=(0,))) as note:
        end(note, "products", "estimates")
    assert lines_of(capsys.readouterr()) == ["reading images: 100 of 100"]


def test_what_is_compiled_is_said_once(capsys):
    with show_progress(Work()):
        for _ in range(3):  # by each worker
            advance(f"{COMPILING} fits voxels", 30)
    [line] = lines_of(capsys.readouterr())
    assert line == "compiling what fits voxels, once for this machine and version: about 30 s"


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_what_an_interruption_ends_has_not_failed(capsys, is_interrupted):
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with show_progress(Work()) as note, interruptible():
            note(node("products"), "start")
            if is_interrupted:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGTERM)
            note(node("products"), "exception")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ("1 failed" in capsys.readouterr().err) == (not is_interrupted)


def test_quiet_shows_nothing(capsys):
    with show_progress(Work(), quiet=True) as note:
        advance("images", 1)
        advance(f"{COMPILING} fits voxels", 30)
        end(note, "products")
        assert ANNOUNCE not in os.environ
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_of_what_happens_after_it_ends(capsys):
    with show_progress(Work()):
        assert os.environ[ANNOUNCE]
    advance("images", 2)
    assert ANNOUNCE not in os.environ
    assert capsys.readouterr() == ("", "")


def show_in_terminal(program, columns):
    """Return what a program writes to a terminal of some width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    seen: list[bytes] = []

    def collect():
        try:
            while chunk := os.read(ours, 4096):
                seen.append(chunk)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=collect)
    reader.start()
    assert process.wait(60) == 0
    reader.join(10)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(seen).decode())


PROGRAM = """
from types import SimpleNamespace
from nipype_blm.cli.progress import show_progress
from nipype_blm.progress import advance

class Work:
    n_images = [60, 40]
    n_resamplings = []
    find_batches = lambda self: {0}
    find_blocks = lambda self: set()
    count_voxels = lambda self: [7]

with show_progress(Work()) as note:
    note(SimpleNamespace(name="plan"), "start")
    note(SimpleNamespace(name="plan"), "end")
    advance("images", 40)
    advance("voxels", 7)
"""


@pytest.mark.parametrize("columns", [5, 20, 49, 50, 80, 200])
def test_a_terminal_of_any_width_shows_numbers_and_no_question_mark(columns):
    shown = show_in_terminal(PROGRAM, columns)
    assert "?" not in shown
    done = "100/100" if columns >= 50 else "100 of 100"
    assert done in shown
    assert "nodes: 1 done, 0 running, 0 failed" in shown


# ------------------------------------------------------------------------------ whole runs


def test_voxels_without_data_are_not_counted(study):
    """Without a mask most of an image is background."""
    study.values[:, :, :, 0] = 0
    for i, values in enumerate(study.values):
        study.save_image(f"s{i:02}.nii", values)
    n = int((study.values != 0).any(axis=0).sum())
    assert n <= study.values[0].size / 2
    result = study.run(voxels_per_block=9)
    assert f"fitting voxels: {n} of {n}" in result.err.splitlines()


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc", "Dask"])
def test_a_run_that_goes_on_starts_at_what_is_there(study, plugin):
    split = {"images_per_batch": 5, "voxels_per_block": 9, "numNodes": 1, "keep": "all"}
    n = int((study.values != 0).any(axis=0).sum())
    first = study.run("--plugin", plugin, **split).err.splitlines()
    assert "reading images: 12 of 12" in first
    assert f"fitting voxels: {n} of {n}" in first
    study.save_image("s03.nii", 2 * study.values[3])
    again = study.run("--plugin", plugin, **split).err.splitlines()
    assert "images read by an earlier run: 7 of 12" in again
    assert "reading images: 12 of 12" in again
    assert f"fitting voxels: {n} of {n}" in again


def test_the_first_line_comes_before_anything_is_imported(study):
    """Nothing that takes time, as reading headers or importing Nipype, may come before it."""
    program = (
        "import sys\n"
        "from nipype_blm.cli.blm import main\n"
        "class Stream:\n"
        "    def write(self, text):\n"
        "        heavy = {'numpy', 'nipype', 'numba', 'yaml'} & set(sys.modules)\n"
        "        print(text.strip(), sorted(heavy), file=sys.__stdout__)\n"
        "        raise SystemExit(0)\n"
        "    def flush(self): pass\n"
        "sys.stderr = Stream()\n"
        "main(sys.argv[1:])\n"
    )
    config = study.configure()
    command = [sys.executable, "-P", "-c", program, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        rf"blm [\w.]+: checking {re.escape(str(config))} \.\.\. \[\]\n", done.stdout
    )


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_quiet_runs_print_nothing(study, plugin):
    result = study.run("--quiet", "--plugin", plugin, numNodes=1)
    assert result.out == ""
    assert [line for line in result.err.splitlines() if not line.startswith("notice: ")] == []


def test_a_run_that_was_interrupted_names_no_failure(study, monkeypatch):
    monkeypatch.setattr(
        "nipype_blm.stages.products.ProductAccumulator.add",
        lambda *_: signal.raise_signal(signal.SIGTERM),
    )
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with interruptible():
            result = study.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.code == 130
    assert "failed" not in result.err.replace("0 failed", "")
    assert "Interrupted." in result.err
    assert study.results() == set()


def test_resamplings_have_lines_of_their_own(capsys):
    with show_progress(Work(resamplings=(10, 10))) as note:
        advance("resamplings", 10)
        end(note, "_nulls0", "_nulls1")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "resampling" in line] == [
        "resampling: 10 of 20",
        "resampling: 20 of 20",
    ]
