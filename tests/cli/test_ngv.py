"""``nipype-blm ngv``: circuits that are cut off, changed, damaged, and asked for in wrong words."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import psutil
import pytest
import yaml
from forked import fork_with_all
from same_circuit import list_differences, read_circuit

from nipype_blm.cli.main import main
from nipype_blm.ngv.circuit.files import count_tetrahedra
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.stages import STAGES

LIMIT_S = 900
N_CELLS = 5
PROGRAM = "from nipype_blm.cli.main import command; command()"
# Stages that are one node, which Nipype runs only if something has changed.
COMMANDS = STAGES.keys() - {"synthesis", "glial_gap_junctions"}
CELLS = [f"GLIA_{number:013}" for number in range(N_CELLS)]


class Desk:
    """A folder with what a circuit is made from, named by a YAML file."""

    def __init__(self, folder, functional_circuit, ngv_python):
        self.folder, self.python = folder, ngv_python
        self.bioname = functional_circuit / "bioname"
        self.out = folder / "circuit of a müs 1"  # paths may have anything in them
        self.layout = Layout(self.out)
        self.config = folder / "circuit.yml"
        self.write()

    def write(self, **changes):
        """Write what is asked for: all of the bioname folder, and what is changed."""
        self.config.write_text(yaml.safe_dump({"bioname": str(self.bioname)} | changes))

    def start(self, *options, out=None):
        """Start `ngv run` on two workers, in a session of its own."""
        arguments = ["ngv", "run", self.config, out or self.out, "--n-procs", 2, *options]
        given = dict(os.environ) | {"NIPYPE_BLM_NGV_PYTHON": str(self.python)}
        return fork_with_all().start(PROGRAM, self.folder, given, *map(str, arguments))

    def list_runs(self):
        """Return when each stage that is a command of ArchNGV has ended well, by its name."""
        records = (self.out / "work" / "ngv_wf").glob("*/result_*.pklz")
        return {p.parent.name: p.stat().st_mtime_ns for p in records if p.parent.name in COMMANDS}

    def list_cells(self):
        """Return when each morphology was written."""
        return {
            path.stem: path.stat().st_mtime_ns for path in self.layout.morphologies.glob("*.h5")
        }

    def list_parts(self):
        """Return the folders of what is being written."""
        return [str(path) for path in self.layout.build.rglob(".*.part")]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def say(capsys, monkeypatch, ngv_python):
    """Function that runs the command here; without a report, which has tests of its own."""
    monkeypatch.setenv("NIPYPE_BLM_NGV_PYTHON", str(ngv_python))

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main(["ngv", *map(str, arguments)])
        except SystemExit as exit_:
            code = exit_.code
        return Answer(code, *capsys.readouterr())

    return run


def wait_for(condition, process):
    """Return as soon as something holds, while the process runs."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.said
        assert time.monotonic() < end, process.said
        time.sleep(0.01)


def kill(process):
    """Kill the command with its group; what it has started ends when it notices."""
    started = find_descendants(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT_S)
    _, left = psutil.wait_procs(started, LIMIT_S)
    assert not left


def find_descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


# ------------------------------------------------------------------------ a run, cut off


class Cut(NamedTuple):
    """What there was when a run was killed, and when the next one ended or was killed."""

    runs: dict[str, int]
    cells: dict[str, int]
    parts: list[str]
    files: set[str]
    said: str


@pytest.fixture(scope="module")
def desk(tmp_path_factory, functional_circuit, ngv_python):
    return Desk(tmp_path_factory.mktemp("desk"), functional_circuit, ngv_python)


@pytest.fixture(scope="module")
def history(desk):
    """What there was after each of four runs: to cell placement; killed; killed again; whole."""

    def look(process):
        found = {str(path.relative_to(desk.out)) for path in desk.out.rglob("build/**/*.h5")}
        return Cut(desk.list_runs(), desk.list_cells(), desk.list_parts(), found, process.said)

    def run(*options):
        process = desk.start(*options)
        assert process.wait(LIMIT_S) == 0, process.said
        return look(process)

    def cut(moment):
        process = desk.start()
        wait_for(moment, process)
        kill(process)
        return look(process)

    return {
        "placed": run("--until", "cell-placement"),
        "endfeet": cut(lambda: list(desk.layout.build.glob(".endfeet_meshes.h5.*.part"))),
        "grown": cut(lambda: list(desk.layout.morphologies.glob("*.h5"))),
        "whole": run(),
    }


@pytest.fixture(scope="module")
def kept(desk, history, tmp_path_factory):
    """A copy of the whole circuit, with the times of its files."""
    folder = tmp_path_factory.mktemp("kept") / "circuit"
    shutil.copytree(desk.out, folder, symlinks=True)
    return folder


@pytest.fixture
def circuit(desk, kept):
    """The desk with the whole circuit, at the place where it was made: nodes know their paths."""
    desk.write()
    shutil.rmtree(desk.out)
    shutil.copytree(kept, desk.out, symlinks=True)
    return desk


def test_a_run_to_cell_placement_writes_somata_and_nothing_after_them(history):
    files = {name for name in history["placed"].files if "sonata" in name}
    assert files == {
        "build/sonata/networks/nodes/vasculature/nodes.h5",
        "build/sonata.tmp/nodes/glia.somata.h5",
    }
    assert history["placed"].files == files
    assert history["placed"].runs.keys() == {"sonata_vasculature", "cell_placement"}


def test_stages_that_were_done_are_not_done_again_after_a_kill(history):
    for before, after in (("placed", "endfeet"), ("endfeet", "grown"), ("grown", "whole")):
        assert history[before].runs.items() < history[after].runs.items()
    assert "endfeet_area" in history["grown"].runs.keys() - history["endfeet"].runs.keys()
    assert history["whole"].runs.keys() == COMMANDS


def test_astrocytes_that_are_written_are_not_grown_again_after_a_kill(history):
    before, after = history["grown"].cells, history["whole"].cells
    assert 0 < len(before) < N_CELLS
    assert len(after) == N_CELLS
    assert before.items() < after.items()


def test_what_was_being_written_at_a_kill_is_removed_by_the_next_run(history):
    assert any("endfeet_meshes" in part for part in history["endfeet"].parts)
    assert not any("endfeet_meshes" in part for part in history["grown"].parts)
    assert not history["whole"].parts


def test_the_circuit_of_runs_that_were_killed_is_that_of_one_that_was_not(kept, built_circuit):
    assert list_differences(read_circuit(kept), read_circuit(built_circuit)) == []


def test_lines_tell_how_many_astrocytes_are_grown(history):
    n = len(history["grown"].cells)
    said = history["whole"].said
    assert f"astrocytes done by an earlier run: {n} of {N_CELLS}" in said
    told = re.findall(r"^growing astrocytes: (\d) of 5$", said, re.M)
    assert told == [str(i) for i in range(n + 1, N_CELLS + 1)]


def test_ctrl_c_ends_the_run_and_all_that_it_has_started(desk, tmp_path):
    out = tmp_path / "out"
    process = desk.start("--until", "cell-placement", out=out)
    folder = Layout(out).somata.parent
    wait_for(lambda: list(folder.glob(".glia.somata.h5.*.part")), process)
    started = find_descendants(process)
    assert any("serve.py" in " ".join(each.cmdline()) for each in started)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    assert process.said.splitlines()[-1].startswith("Interrupted. The same command goes on")
    assert "Traceback" not in process.said
    _, left = psutil.wait_procs(started, LIMIT_S)
    assert not left
    assert not Layout(out).somata.exists()


# ---------------------------------------------------------------- what is computed again


def run_again(desk, say, *options):
    """Run the command here; return the stages that ran, and cells that were grown."""
    runs, cells = desk.list_runs(), desk.list_cells()
    answer = say("run", desk.config, desk.out, "--plugin", "Linear", *options)
    assert answer.code == 0, answer.err
    return find_new(runs, desk.list_runs()), find_new(cells, desk.list_cells())


def find_new(before, after):
    return {name for name, time_ns in after.items() if before.get(name) != time_ns}


def test_the_same_again_does_nothing(circuit, say):
    known = {path: path.stat().st_mtime_ns for path in circuit.layout.build.rglob("*")}
    assert run_again(circuit, say) == (set(), set())
    found = {path: path.stat().st_mtime_ns for path in circuit.layout.build.rglob("*")}
    assert {path for path in found if found[path] != known.get(path) and path.is_file()} == set()
    assert found.keys() == known.keys()


def test_a_change_of_the_mesh_makes_the_mesh_alone_again(circuit, say):
    circuit.write(tetrahedral_mesh={"refinement_subdividing_steps": 2})
    runs, cells = run_again(circuit, say)
    # The surface comes out the same, so that nothing is made from it; the settings are noted.
    assert runs == {"prepare_tetrahedral", "refine_tetrahedral", "integrity", "ngv_config"}
    assert not cells
    # The convex hull is 6 tetrahedra, each of which is split into 8, twice.
    assert count_tetrahedra(circuit.layout.refined_mesh) == 6 * 8**2


def test_a_change_of_synthesis_grows_all_cells_and_completes_edges_again(circuit, say):
    known = read_circuit(circuit.out)
    model = {"slope": 4.0}  # perimeters are in the files of cells
    circuit.write(synthesis={"perimeter_distribution": {"statistical_model": model}})
    runs, cells = run_again(circuit, say)
    assert cells == set(CELLS)
    completed = {"finalize_gliovascular_connectivity", "finalize_neuroglial_connectivity"}
    assert completed < runs
    # Touches may be the same: perimeters are no part of them.
    assert runs <= completed | {"glialglial_connectivity", "ngv_config", "integrity"}
    changed = list_differences(read_circuit(circuit.out), known)
    assert {f"morphologies/{name}.h5" for name in CELLS} < set(changed)
    assert not [name for name in changed if "sonata.tmp" in name or "mesh" in name]


def test_another_seed_places_cells_elsewhere_and_vessels_stay(circuit, say):
    out = circuit.folder / "other"
    asked = ("--seed", 1, "--until", "cell_data_sonata", "--plugin", "Linear")  # as once called
    assert say("run", circuit.config, out, *asked).code == 0
    changed = list_differences(read_circuit(out), read_circuit(circuit.out))
    assert "sonata.tmp/nodes/glia.somata.h5" in changed
    assert "sonata/networks/nodes/vasculature/nodes.h5" not in changed


def test_later_stages_are_not_left_with_other_cells_than_those_that_are_placed(circuit, say):
    known = read_circuit(circuit.out)
    answer = say("run", circuit.config, circuit.out, "--seed", 1, "--until", "cell-placement")
    assert answer.code == 2
    assert "computed from another cell_placement than that asked for now" in answer.err
    assert list_differences(read_circuit(circuit.out), known) == []


def test_files_that_were_deleted_are_made_again_as_they_were(circuit, say):
    known = read_circuit(circuit.out)
    for path in (circuit.layout.glialglial, circuit.layout.volume_mesh, circuit.layout.touches):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    runs, cells = run_again(circuit, say)
    made = {"glialglial_connectivity", "build_tetrahedral"}
    assert made <= runs <= made | {"refine_tetrahedral", "integrity"}
    assert not cells
    assert list_differences(read_circuit(circuit.out), known) == []


def test_astrocytes_that_were_lost_or_damaged_are_grown_again(circuit, say):
    known = read_circuit(circuit.out)
    lost, damaged = (circuit.layout.morphologies / f"{CELLS[i]}.h5" for i in (1, 3))
    lost.unlink()
    os.truncate(damaged, damaged.stat().st_size // 2)
    _, cells = run_again(circuit, say)
    assert cells == {CELLS[1], CELLS[3]}
    assert list_differences(read_circuit(circuit.out), known) == []


# ------------------------------------------------------------------- a cell that fails

# In place of serve.py: ArchNGV in which some cells cannot be grown while a file says so.
FAULTY = """
import runpy, sys
from pathlib import Path
import archngv.app.ngv as module

grow = module._synthesize

def fail(index, *rest):
    if str(index) in Path(__file__).with_name("failing.txt").read_text().split():
        raise RuntimeError("no root\\nwas found")
    return grow(index, *rest)

module._synthesize = fail
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def faulty_python(tmp_path, ngv_python):
    """Python of an environment like that of ArchNGV, in which cells of failing.txt fail."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'if [ "$2" = -c ]; then exec "{ngv_python}" "$@"; fi\n'
        f'shift\nexec "{ngv_python}" -I "{tmp_path}/faulty.py" "$@"\n'
    )
    python.chmod(0o755)
    (tmp_path / "failing.txt").write_text("")
    return python


def test_cells_that_fail_are_named_and_grown_by_the_same_command_after_the_mend(
    circuit, say, faulty_python
):
    layout, failing = circuit.layout, faulty_python.with_name("failing.txt")
    known = read_circuit(circuit.out)
    for i in (1, 2, 4):
        (layout.morphologies / f"{CELLS[i]}.h5").unlink()
    layout.gliovascular.unlink()
    runs, before = circuit.list_runs(), circuit.list_cells()
    table = layout.build / "failed_cells.tsv"
    command = ("run", circuit.config, circuit.out, "--plugin", "Linear")
    command = (*command, "--ngv-python", faulty_python)

    def expect_failures(*numbers):
        failing.write_text(" ".join(map(str, numbers)))
        answer = say(*command)
        assert answer.code == 1, answer.err
        [message] = [line for line in answer.err.splitlines() if line.startswith("error: ")]
        n = "1 astrocyte" if len(numbers) == 1 else f"{len(numbers)} astrocytes"
        assert message.startswith(f"error: {n} of 5 could not be grown")
        for i in numbers:
            assert f"{CELLS[i]} (RuntimeError: no root was found)" in message
        assert "Traceback" not in answer.err
        rows = [f"{CELLS[i]}\tRuntimeError: no root was found" for i in numbers]
        assert table.read_text().splitlines() == ["cell\terror", *rows]
        assert not layout.gliovascular.exists()  # it needs all cells
        assert find_new(runs, circuit.list_runs()) == set()

    expect_failures(2, 4)
    assert circuit.list_cells().keys() == {CELLS[0], CELLS[1], CELLS[3]}
    expect_failures(2, 4)  # these alone were tried again
    expect_failures(2, 4)
    kept = circuit.list_cells()
    assert before.items() < kept.items()
    expect_failures(2)
    failing.write_text("")
    answer = say(*command)
    assert answer.code == 0, answer.err
    assert kept.items() < circuit.list_cells().items()
    assert not table.exists()
    assert list_differences(read_circuit(circuit.out), known) == []


# ------------------------------------------------------------------- what is asked for


@pytest.fixture
def fresh(tmp_path, functional_circuit, ngv_python):
    return Desk(tmp_path, functional_circuit, ngv_python)


def expect_refusal(answer, *words):
    """Expect one sentence or two that name these, and exit code 2."""
    assert answer.code == 2, answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, answer.err
    assert "Traceback" not in answer.err
    for word in words:
        assert str(word) in lines[0], lines[0]


def test_a_check_says_what_would_be_done_and_writes_nothing(fresh, say):
    fresh.write(cluster={"synthesis": {"mem": "8G", "cpus-per-task": 2, "time": "04:00:00"}})
    answer = say("run", fresh.config, fresh.out, "--check", "--until", "synthesis")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].startswith("ArchNGV ")
    until = list(STAGES)[: list(STAGES).index("synthesis") + 1]
    assert [line.split()[0] for line in lines[1:]] == until
    assert lines[-1].split()[1:] == ["2", "cores", "8", "GiB", "--time=04:00:00"]
    assert not fresh.out.exists()
    assert {path.name for path in fresh.folder.iterdir()} == {"circuit.yml"}


def test_a_check_of_a_circuit_that_is_there_leaves_it_as_it_is(circuit, say):
    known = {path: path.stat().st_mtime_ns for path in circuit.out.rglob("*")}
    circuit.write(synthesis={"resampling": {"enabled": True}})
    answer = say("run", circuit.config, circuit.out, "--check")
    assert answer.code == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in circuit.out.rglob("*")} == known


def test_a_graph_is_drawn_and_nothing_computed(fresh, say, require_command):
    require_command("dot", "graphviz")
    picture = fresh.folder / "circuit.svg"
    answer = say("run", fresh.config, fresh.out, "--graph", picture, "--until", "cell-placement")
    assert answer.code == 0, answer.err
    drawn = picture.read_text()
    assert "cell_placement" in drawn
    assert "microdomains" not in drawn
    assert not fresh.out.exists()


def test_a_stage_that_is_none_is_refused_with_the_nearest(fresh, say):
    answer = say("run", fresh.config, fresh.out, "--until", "microdomain")
    expect_refusal(answer, "microdomain is no stage", "did you mean microdomains?")
    assert not fresh.out.exists()


def test_the_folder_of_a_circuit_is_no_configuration(circuit, say):
    """Although its recipe is in there."""
    expect_refusal(say("run", circuit.out, circuit.out), circuit.out, "MANIFEST.yaml", "bioname")


def test_a_configuration_that_is_not_there_is_refused(fresh, say):
    answer = say("run", fresh.folder / "none.yml", fresh.out)
    expect_refusal(answer, "none.yml is not there", "nipype-blm ngv example")


def test_an_environment_that_is_not_there_is_refused_with_what_makes_one(fresh, say):
    answer = say("run", fresh.config, fresh.out, "--ngv-python", fresh.folder / "none")
    expect_refusal(answer, fresh.folder / "none", "nipype-blm ngv install")
    assert not fresh.out.exists()


def write_python(folder, text):
    path = folder / "python"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_what_is_no_python_is_refused(fresh, say):
    python = write_python(fresh.folder, "#!/bin/sh\necho no such thing >&2\nexit 3\n")
    answer = say("run", fresh.config, fresh.out, "--ngv-python", python)
    expect_refusal(answer, python, "no such thing", "nipype-blm ngv install")


def test_other_versions_are_refused_unless_they_are_asked_for(fresh, say):
    """A Python that says that it has another NeuroTS."""
    look = json.loads(
        subprocess.run(
            [sys.executable, "-c", LOOK.format(python=fresh.python)],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    look["versions"]["neurots"] = "3.7.0"
    (fresh.folder / "look.json").write_text(json.dumps(look))
    python = write_python(
        fresh.folder,
        "#!/bin/sh\n"
        f'if [ "$2" = -c ]; then exec cat "{fresh.folder}/look.json"; fi\n'
        f'exec "{fresh.python}" "$@"\n',
    )
    command = ("run", fresh.config, fresh.out, "--check", "--until", "sonata_vasculature")
    command = (*command, "--ngv-python", python)
    expect_refusal(say(*command), "neurots 3.7.0", "any_versions")
    assert say(*command, "--any-versions").code == 0


LOOK = """
import subprocess
from nipype_blm.ngv.environment.finding import _LOOK
print(subprocess.run(["{python}", "-I", "-c", _LOOK], capture_output=True, text=True).stdout)
"""


def test_a_folder_that_cannot_be_written_is_refused(fresh, as_ordinary_user, ngv_python):
    fresh.out.mkdir(mode=0o555)
    command = [*as_ordinary_user, sys.executable, "-P", "-m", "nipype_blm.cli.main"]
    done = subprocess.run(
        [*command, "ngv", "run", fresh.config, fresh.out, "--ngv-python", ngv_python],
        capture_output=True,
        text=True,
        cwd=fresh.folder,
    )
    expect_refusal(Answer(done.returncode, done.stdout, done.stderr), "OUT", fresh.out)


# ------------------------------------------------------------------------ show, example


def test_a_part_of_a_circuit_is_shown(circuit, say):
    """What is not there yet is left out."""
    shutil.rmtree(circuit.layout.morphologies)
    circuit.layout.endfeet_meshes.unlink()
    for path in (circuit.layout.gliovascular, circuit.layout.neuroglial, circuit.layout.glialglial):
        path.unlink()
    answer = say("show", circuit.out, "--picture", circuit.folder / "part.svg")
    assert answer.code == 0, answer.err
    assert "microdomains" in answer.out
    assert "tetrahedra" in answer.out
    assert "endfeet-area" not in answer.out
    assert (circuit.folder / "part.svg").stat().st_size > 1000


def test_somata_alone_are_shown(circuit, say):
    for path in circuit.layout.build.rglob("*.h5"):
        if path not in (circuit.layout.somata, circuit.layout.vasculature):
            path.unlink()
    answer = say("show", circuit.out)
    assert answer.code == 0, answer.err
    assert re.search(r"^  astrocytes +5 ", answer.out, re.M)


def test_a_circuit_that_is_not_there_is_not_shown(tmp_path, say):
    expect_refusal(say("show", tmp_path / "none"), tmp_path / "none", "has no circuit")
    assert not (tmp_path / "none").exists()


def test_an_example_is_not_written_over_another_one(tmp_path, say):
    folder = tmp_path / "an example"
    answer = say("example", folder, "--side", 60)
    assert answer.code == 0, answer.err
    command = shlex.split(answer.out.splitlines()[-1])
    assert command == ["nipype-blm", "ngv", "run", str(folder), str(folder)]
    known = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    expect_refusal(say("example", folder, "--side", 60), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == known
    assert say(*command[2:], "--check").code == 0
