"""A list of commands as a node."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from nipype import Node
from nipype.pipeline.engine.utils import load_resultfile

from nipype_blm.errors import InputError
from nipype_blm.interfaces import CommandBatch
from nipype_blm.tasks.commandfolder import CommandsError


def count_runs(folder: Path) -> Counter[str]:
    return Counter((folder / "ran").read_text().split())


def test_a_list_as_a_node_has_its_table_and_journal_and_is_not_run_again(tmp_path: Path) -> None:
    commands = tmp_path / "list.txt"
    commands.write_text("# all\necho a >> ran\necho $B >> ran\n")
    node = Node(CommandBatch(), "batch", base_dir=str(tmp_path / "work"))
    node.inputs.commands_file = str(commands)
    node.inputs.cwd = str(tmp_path)
    node.inputs.environ = {"B": "b"}
    node.inputs.n_procs = 2
    outputs = node.run().outputs
    assert outputs.n_done == 2
    with open(outputs.table, newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["line"], row["returncode"]) for row in rows] == [("2", "0"), ("3", "0")]
    ended = map(json.loads, Path(outputs.journal).read_text().splitlines())
    assert sum("command" in line for line in ended) == 2
    assert count_runs(tmp_path) == Counter("ab")
    node.run()
    assert count_runs(tmp_path) == Counter("ab")
    result = tmp_path / "work" / "batch" / "result_batch.pklz"
    assert load_resultfile(result).outputs.n_done == 2


def test_a_node_with_a_folder_of_its_own_goes_on_after_failures(tmp_path: Path) -> None:
    batch = CommandBatch(
        commands=["echo a >> ran", "echo b >> ran; echo no >&2; test -e mended"],
        out_dir=tmp_path / "out",
        cwd=tmp_path,
        retries=1,
    )
    with pytest.raises(CommandsError, match=r"(?s)1 of 2 commands failed.*return code 1: no"):
        batch.run(cwd=tmp_path)
    (tmp_path / "mended").touch()
    outputs = batch.run(cwd=tmp_path).outputs
    assert outputs.n_done == 2
    assert outputs.table == str(tmp_path / "out" / "table.tsv")
    assert count_runs(tmp_path) == Counter({"a": 1, "b": 3})


def test_a_node_runs_its_list_on_a_pool_started_for_it(tmp_path: Path) -> None:
    batch = CommandBatch(
        commands=[f"touch {i}.nii # {i}" for i in range(8)],
        plugin_args={"cluster": "local", "n_workers": 2, "n_procs": 2},
        done_glob="{1}",
        timeout_s=60,
    )
    assert batch.run(cwd=tmp_path).outputs.n_done == 8
    assert len(list(tmp_path.glob("*.nii"))) == 8


def test_faults_are_told_in_the_names_of_the_traits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"done_glob is '\*.nii', which is the same for all"):
        CommandBatch(commands=["true"], done_glob="*.nii").run(cwd=tmp_path)
    with pytest.raises(InputError, match=r"pool.json cannot be read"):
        CommandBatch(commands=["true"], pool_file="pool.json").run(cwd=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out_dir .*file is a file|out_dir .* cannot be made"):
        CommandBatch(commands=["true"], out_dir=tmp_path / "file").run(cwd=tmp_path)
    with pytest.raises(InputError, match="There is no command"):
        CommandBatch(commands=["# none"]).run(cwd=tmp_path)
    with pytest.raises(InputError, match="cannot be read by the shell"):
        CommandBatch(commands=["echo 'a"], out_dir=tmp_path / "out").run(cwd=tmp_path)
    assert not (tmp_path / "out").exists()
