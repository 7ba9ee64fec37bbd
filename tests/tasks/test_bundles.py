"""Lists of commands on the workers of a pool, some of which are lost."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest

from nipype_blm.errors import InputError
from nipype_blm.progress import listening
from nipype_blm.tasks.bundles import Bundles, run_bundle
from nipype_blm.tasks.commandfolder import Places, Summary
from nipype_blm.tasks.commandjournal import Outcome
from nipype_blm.tasks.commandlist import number_commands
from nipype_blm.tasks.commands import run_commands
from nipype_blm.tasks.disks import blames_machine
from nipype_blm.tasks.options import Resources, parse_options
from nipype_blm.tasks.performing import Settings, Tally
from nipype_blm.tasks.pools import Pool, open_pool

KILL = "kill -9 $PPID; sleep 60"  # the worker, and wait for its end


class Desk:
    """A pool of two workers, a folder where commands run, and one for what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.places = folder, Places(folder / "out")
        self.places.folder.mkdir()
        self.pools: list[Pool] = []

    def start_pool(self, **arguments: Any) -> Pool:
        options = parse_options({"cluster": "local", "n_procs": 2} | arguments)
        self.pools.append(open_pool(options, Resources(1, 0), self.folder / "logs"))
        return self.pools[-1]

    def run(self, *lines: str, pool: Pool | None = None, **options: Any) -> Summary:
        settings = Settings(str(self.folder), **options)
        pool = pool or self.start_pool()
        return run_commands(number_commands(lines), self.places.folder, settings, pool=pool)

    def count_runs(self) -> Counter[str]:
        path = self.folder / "ran"
        return Counter(path.read_text().split() if path.exists() else [])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for pool in desk.pools:
        pool.close()


def number(n: int, line: str = "echo {} >> ran") -> list[str]:
    return [line.format(i) for i in range(n)]


def test_a_list_on_a_pool_has_the_results_of_one_that_runs_here(desk: Desk) -> None:
    lines = [*number(60), "echo fault >&2; exit 3", 'test "$A" = b']
    told: Counter[str] = Counter()
    with listening(lambda what, n: told.update({what: n})):
        summary = desk.run(*lines, env={"A": "b"})
    assert summary.n_done == 61
    assert told["commands"] == 62
    [(command, outcome)] = summary.failed
    assert (command.line, outcome.returncode, outcome.stderr) == (61, 3, "fault")
    assert desk.count_runs() == Counter(map(str, range(60)))
    assert len(desk.places.table.read_text().splitlines()) == 63
    assert "$ echo fault >&2; exit 3\nfault\n" in (desk.places.logs / "failed.log").read_text()
    assert not desk.places.bundles.exists()
    assert desk.run(*lines, env={"A": "b"}, pool=desk.pools[0]).n_earlier == 61


def test_a_lost_worker_puts_its_commands_back(desk: Desk) -> None:
    """What it had finished is not run again; the command that it ran is."""
    lines = number(200, "sleep 0.01; echo {} >> ran")
    lines[100] = f"test -e lost || {{ touch lost; {KILL}; }}; echo 100 >> ran"
    assert desk.run(*lines).n_done == 200
    assert (desk.folder / "lost").exists()
    assert desk.count_runs() == Counter(map(str, range(200)))


def test_a_command_that_costs_each_of_its_workers_fails_and_the_others_are_done(
    desk: Desk,
) -> None:
    lines = number(120, "sleep 0.01; echo {} >> ran")
    lines[60] = f"echo x >> ran; {KILL}"
    summary = desk.run(*lines, pool=desk.start_pool(retries=1))
    assert summary.n_done == 119
    [(command, outcome)] = summary.failed
    assert (command.line, outcome.returncode) == (61, None)
    assert "its process was killed, or its machine is gone" in outcome.stderr
    log = (desk.places.logs / "failed.log").read_text()
    assert "and its worker was lost" in log
    runs = desk.count_runs()
    assert 2 <= runs.pop("x") <= 4  # Dask counts its own, and starts that were noted late do not
    assert runs == Counter(str(i) for i in range(120) if i != 60)


def test_nothing_new_starts_on_a_pool_after_too_many_failures(desk: Desk) -> None:
    summary = desk.run(*number(300, "echo {} >> ran; false"), max_failures=3)
    assert len(summary.failed) >= 4
    assert summary.n_not_run > 200  # some tasks were handed out already
    assert sum(desk.count_runs().values()) == len(summary.failed)


def test_a_program_that_workers_have_not_is_found_before_anything_runs(desk: Desk) -> None:
    with pytest.raises(InputError, match="'no_such_tool' is not there, or cannot be run, on "):
        desk.run(*number(5), "no_such_tool x")
    assert not desk.count_runs()


@pytest.mark.parametrize(("program", "cwd"), [("tool", "."), ("true", "gone")])
def test_a_machine_that_lacks_what_others_have_fails_no_command(tmp_path, program, cwd) -> None:
    """It is the machine that is blamed, so that the bundle is tried again elsewhere."""
    output, commands = tmp_path / "bundle.jsonl", number_commands([f"{program} x"])
    with pytest.raises(OSError, match="a machine of the pool, has no ") as caught:
        run_bundle(commands, output, Settings(str(tmp_path / cwd)), None)
    assert blames_machine(format_exception(caught.value))
    assert not output.exists()


def test_a_bundle_that_a_later_run_has_taken_over_goes_no_further(tmp_path: Path) -> None:
    output = tmp_path / "bundle.jsonl"
    lines = [*number(2), f"rm {output}", *number(3)]
    with pytest.raises(FileNotFoundError):
        run_bundle(number_commands(lines), output, Settings(str(tmp_path)), None)
    assert (tmp_path / "ran").read_text().split() == ["0", "1"]


def test_a_bundle_that_is_run_again_leaves_out_what_has_ended(tmp_path: Path) -> None:
    output, settings = tmp_path / "bundle.jsonl", Settings(str(tmp_path))
    commands = number_commands(number(3))
    run_bundle(commands[:2], output, settings, None)
    before = output.stat()
    run_bundle(commands, output, settings, None)
    assert (tmp_path / "ran").read_text().split() == ["0", "1", "2"]
    run_bundle(commands, output, settings, None)
    assert output.stat().st_mtime_ns > before.st_mtime_ns  # it counts as written
    ended = [line for line in map(json.loads, output.read_text().splitlines()) if "key" in line]
    assert [line["command"] for line in ended] == [c.text for c in commands]


def test_texts_of_commands_and_values_of_variables_are_no_files_that_a_worker_waits_for(
    tmp_path: Path,
) -> None:
    """A worker's machine need not have them, and a text may be longer than a path can be."""
    folders = [tmp_path / name for name in ("cwd", "out", "tool")]
    for folder in folders:
        folder.mkdir()
    cwd, out, tool = map(str, folders)
    workers: Any = Workers(2)
    settings = Settings(cwd, {"TOOLS": tool})
    task = Bundles(number_commands([tool]), Path(out), settings, workers, Tally(None)).take()
    assert task is not None
    assert task.inputs == (cwd, task.output)  # the latter, of a worker that was lost


def test_a_long_command_that_begins_with_a_path_runs_on_a_pool(desk: Desk) -> None:
    assert desk.run(f"{shutil.which('true')} {'image ' * 1000}").n_done == 1


# -- Sizes ---------------------------------------------------------------------------------


class Workers:
    """What `Bundles` asks of a pool."""

    def __init__(self, n: int) -> None:
        self.count_workers: Callable[[], int] = lambda: n


def plan(folder: Path, n_commands: int, n_workers: int, seconds: float) -> list[int]:
    """Return the sizes of all bundles if each command takes some seconds."""
    settings, tally = Settings("/"), Tally(None)
    workers: Any = Workers(n_workers)
    commands = number_commands(number(n_commands))
    bundles = Bundles(commands, folder, settings, workers, tally)
    sizes = []
    running = []
    while True:
        while len(running) < bundles.count_most() and (task := bundles.take()) is not None:
            running.append(len(task.arguments[0]))
        if not running:
            return sizes
        sizes.append(running.pop(0))
        bundles.learn(seconds * sizes[-1], sizes[-1])


def test_bundles_of_short_commands_grow_and_end_small(tmp_path: Path) -> None:
    sizes = plan(tmp_path, 10_000, 2, 0.001)
    assert sum(sizes) == 10_000
    assert sizes[:16] == [1] * 16
    assert len(sizes) < 100  # an overhead of milliseconds each
    assert all(later <= 4 * max(sizes[:i]) for i, later in enumerate(sizes) if i)
    assert sizes[-1] == 1  # no worker idles long in the end


@pytest.mark.parametrize(("seconds", "most"), [(300, 1), (2, 5), (0.5, 20)])
def test_bundles_take_about_ten_seconds(tmp_path: Path, seconds: float, most: int) -> None:
    assert max(plan(tmp_path, 2000, 4, seconds)) == most


def test_all_workers_of_a_large_pool_have_work_at_once(tmp_path: Path) -> None:
    assert max(plan(tmp_path, 500, 100, 0.01)) <= 2


def test_what_is_put_back_is_handed_out_again(tmp_path: Path) -> None:
    workers: Any = Workers(2)
    tally, commands = Tally(None), number_commands(number(8))
    bundles = Bundles(commands, tmp_path, Settings("/"), workers, tally)
    bundles.learn(0.1, 100)
    assert bundles.count_most() == 16
    task = bundles.take()
    assert task is not None
    first, second = task.arguments[0]
    key = first.identify("/")
    tally.note(Outcome(key, first.text, True, 0, "host", 0.1, "", "now"))
    bundles.put_back(task, is_alone=True)  # the first one has ended
    sizes = []
    while (task := bundles.take()) is not None:
        sizes.append(task.arguments[0])
    assert sizes[0] == (second,)
    assert sorted(sum(sizes, ())) == sorted(commands[1:])
