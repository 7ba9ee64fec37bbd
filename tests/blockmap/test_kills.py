"""A run that is killed at any moment, or whose disk is full, goes on where it was."""

import functools
import os
import random
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from forked import Done, Forked, Forker

from nipype_blm.blockmap.journal import DONE, SKIPPED, read_history

# A hundred take a minute or two.
N_KILLS = int(os.environ.get("NIPYPE_BLM_KILLS", "15"))
N_BLOCKS = 36
N_THREADS = 2

PROGRAM = """
import resource, sys, time
from pathlib import Path
import numpy as np
from nipype_blm.blockmap import map_blocks, preparing
from nipype_blm.tasks import disks

# Kills come from outside here, and no block is to blame for one.
preparing.MOST_LOSSES = 1000
disks._SECONDS_TO_RECOVER = 0
out, calls, n_threads, limit = sys.argv[1:]
volume = np.arange(8 * 9 * 10, dtype="u2").reshape(8, 9, 10)

def act(data, block):
    with open(calls, "a") as file:
        file.write(f"{block.key}\\n")
    time.sleep(0.002)
    em = data["em"]
    if block.start[0] >= 4:
        em = em * 0  # whose chunks no Zarr stores
    rows = [{"sum": int(em.sum()), "text": "x" * 500}]
    return {"own": em, "most": em[::-1, ::-1, ::-1], "total": em, "rows": rows}

if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
result = map_blocks(
    act, {"em": volume}, out, block_size=(4, 3, 2), halo=1, n_threads=int(n_threads),
    outputs={
        "own": {}, "most": {"merge": "max", "chunks": (5, 5, 5)},
        "total": {"path": "total.nii.gz", "merge": "sum"},
    },
)
assert not result.skipped
"""


@functools.cache
def _forker() -> Forker:
    return Forker("import nipype_blm.blockmap.run, zarr, zlib_ng.gzip_ng, nibabel, numcodecs")


class Runs:
    """Runs into one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.out, self.calls = folder, folder / "out", folder / "calls.txt"

    def _arguments(self, n_threads: int, limit: int) -> list[str]:
        return [str(self.out), str(self.calls), str(n_threads), str(limit)]

    def start(self, n_threads: int = N_THREADS) -> Forked:
        return _forker().start(PROGRAM, self.folder, os.environ, *self._arguments(n_threads, 0))

    def run(self, n_threads: int = N_THREADS, limit: int = 0) -> Done:
        return _forker().run(PROGRAM, self.folder, os.environ, *self._arguments(n_threads, limit))

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.calls.read_text().split())

    def read(self) -> dict[str, bytes]:
        """Return all files, but what tells of times and hosts."""
        place = str(self.folder).encode()
        files = [path for path in self.out.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.out)): path.read_bytes().replace(place, b"FOLDER")
            for path in files
            if path.parent.name != "journal" and path.name != "blocks.tsv"
        }


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    runs = Runs(tmp_path_factory.mktemp("undisturbed") / "runs")
    assert runs.run().returncode == 0
    assert set(runs.counts.values()) == {1}
    assert len(runs.counts) == N_BLOCKS
    return runs.read()


def test_a_run_may_be_killed_at_any_moment(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    rng = random.Random(15)
    n_kills = n_runs = 0
    while n_kills < N_KILLS:
        runs = Runs(tmp_path / f"runs{n_runs}")
        n_kills_here = _run_and_kill(runs, rng)
        assert runs.read() == undisturbed
        assert len(runs.counts) == N_BLOCKS
        assert runs.counts.total() - N_BLOCKS <= N_THREADS * n_kills_here
        n_kills, n_runs = n_kills + n_kills_here, n_runs + 1


def _run_and_kill(runs: Runs, rng: random.Random) -> int:
    """Start a run again and again, and kill it, until one comes to its end; return the kills."""
    n_kills, longest_s = 0, 0.5
    while True:
        program = runs.start()
        try:
            program.wait(rng.uniform(0, longest_s))
        except subprocess.TimeoutExpired:
            program.kill()
        if program.wait(10) == 0:
            return n_kills
        assert program.returncode == -signal.SIGKILL, program.said
        # However slow this machine is now, it comes to its end.
        n_kills, longest_s = n_kills + 1, longest_s * 1.1


def test_a_full_disk_ends_a_run_and_its_journal_stays_whole(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    runs = Runs(tmp_path / "runs")
    # Of journals: a bundle has some blocks, and each of them a long record.
    said = runs.run(1, limit=1500).stderr
    assert said.strip().splitlines()[-1].startswith("OSError: [Errno 27] File too large: ")
    history = read_history(runs.out / "journal")
    assert {each.state for each in history.ended.values()} == {DONE}
    n_before = len(history.ended)
    assert 0 < n_before < N_BLOCKS
    # The block that could not be noted is no reason to take a worker for lost.
    assert runs.run(1, limit=1500).returncode != 0
    history = read_history(runs.out / "journal")
    assert SKIPPED not in {each.state for each in history.ended.values()}
    assert runs.run(1).returncode == 0
    assert runs.read() == undisturbed
    assert runs.counts.total() == N_BLOCKS + 2


@pytest.mark.parametrize("limit", [2000, 5000])
def test_a_full_disk_at_the_end_runs_no_block_again(
    tmp_path: Path, undisturbed: dict[str, bytes], limit: int
) -> None:
    runs = Runs(tmp_path / "runs")
    done = runs.run(N_THREADS, limit=limit)
    assert done.stderr.strip().splitlines()[-1].startswith("OSError: [Errno 27]")
    assert runs.run().returncode == 0
    assert runs.read() == undisturbed
    assert runs.counts.total() <= N_BLOCKS + N_THREADS


LETHAL = """
import os, signal, sys
import numpy as np
from nipype_blm.blockmap import map_blocks

def act(data, block):
    with open("calls.txt", "a") as file:
        file.write(f"{block.key}\\n")
    if block.key == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return data["em"]

em = np.ones((1, 1, 6), "u1")
result = map_blocks(act, {"em": em}, "out", block_size=(1, 1, 1), n_threads=int(sys.argv[2]))
print(*(f"{each.key}: {each.error}" for each in result.skipped))
"""


@pytest.mark.parametrize(("lethal", "n_threads"), [("0_0_0", 1), ("0_0_4", 1), ("0_0_2", 2)])
def test_a_block_that_kills_every_run_is_skipped_and_no_other(
    tmp_path: Path, lethal: str, n_threads: int
) -> None:
    def run() -> Done:
        return _forker().run(LETHAL, tmp_path, os.environ, lethal, str(n_threads))

    assert [run().returncode for _ in range(2)] == [-signal.SIGKILL] * 2
    done = run()
    if n_threads > 1 and done.returncode:  # it was lost with another one, and now alone
        assert done.returncode == -signal.SIGKILL
        done = run()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(f"{lethal}: its worker was lost 2 times [^:]*", done.stdout)
    calls = Counter((tmp_path / "calls.txt").read_text().split())
    assert calls[lethal] <= 1 + max(2, n_threads)
    assert len(calls) == 6
    if n_threads == 1:  # the others were done before it killed the second run
        assert calls == Counter({f"0_0_{x}": 1 for x in range(6)}) + Counter([lethal])
