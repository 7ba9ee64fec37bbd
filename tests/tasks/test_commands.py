"""Lists of commands that run here: each until it has ended well once."""

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nipype_blm.errors import InputError
from nipype_blm.progress import listening
from nipype_blm.tasks.commandfolder import CommandsError, Places, Summary
from nipype_blm.tasks.commandlist import number_commands
from nipype_blm.tasks.commands import check_list, run_commands
from nipype_blm.tasks.performing import Settings


class Desk:
    """A folder where commands run, and one for what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self.cwd, out = folder / "cwd", folder / "out"
        self.cwd.mkdir()
        out.mkdir()
        self.places = Places(out)

    def run(self, *lines: str, n_procs: int = 1, **options: Any) -> Summary:
        settings = Settings(str(self.cwd), **options)
        commands = number_commands(lines)
        check_list(commands, settings)
        return run_commands(commands, self.places.folder, settings, n_procs)

    @property
    def ran(self) -> list[str]:
        """What commands have written into the file of that name."""
        path = self.cwd / "ran"
        return path.read_text().split() if path.exists() else []

    def read_table(self) -> list[dict[str, str]]:
        with self.places.table.open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

    def read_log(self, name: str) -> str:
        path = self.places.logs / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def note(word: str, rest: str = "true") -> str:
    return f"echo {word} >> ran; {rest}"


def test_a_list_is_run_and_what_has_ended_well_is_not_run_again(desk: Desk) -> None:
    lines = [note("a"), note("b", "test -e mended"), note("c")]
    summary = desk.run(*lines)
    assert (summary.n_done, summary.n_earlier, summary.n_not_run) == (2, 0, 0)
    assert [command.line for command, _ in summary.failed] == [2]
    (desk.cwd / "mended").touch()
    assert desk.run(*lines)[1:4] == (3, 2, [])
    assert desk.run(*lines)[1:4] == (3, 3, [])
    assert desk.ran == ["a", "b", "c", "b"]


def test_commands_are_known_by_their_text_and_folder_wherever_they_stand(desk: Desk) -> None:
    desk.run(note("a"), note("b"))
    assert desk.run(note("c"), note("b"), note("b"), note("a")).n_earlier == 2
    assert desk.ran == ["a", "b", "c", "b"]  # a second line of the same text is another one


def test_several_run_side_by_side(desk: Desk) -> None:
    """Each waits for the other one."""
    wait = "touch {}; until test -e {}; do sleep 0.01; done"
    assert desk.run(wait.format("a", "b"), wait.format("b", "a"), n_procs=2).n_done == 2


def test_the_table_has_a_row_for_each_command(desk: Desk) -> None:
    desk.run(
        "echo a; echo; (echo; echo first; echo second) >&2; exit 3", "sleep 0.2", "a=1\t; true"
    )
    first, second, third = desk.read_table()
    assert first["returncode"] == "3"
    assert first["stderr"] == "first"
    assert first["host"] == os.uname().nodename
    assert (second["line"], second["returncode"], second["attempts"]) == ("2", "0", "1")
    assert 0.2 <= float(second["seconds"]) < 60
    assert second["stderr"] == "n/a"
    assert third["command"] == "a=1\\t; true"


def test_a_command_that_fails_is_run_again_as_often_as_asked(desk: Desk) -> None:
    third_time = note("a", "test $(wc -l < ran) = 3")
    assert desk.run(third_time, retries=1).failed
    [row] = desk.read_table()
    assert row["attempts"] == "2"
    assert desk.run(third_time, retries=1).n_done == 1
    [row] = desk.read_table()
    assert (row["attempts"], row["returncode"]) == ("3", "0")


def test_failures_are_logged_in_one_file_and_successes_on_request(desk: Desk) -> None:
    lines = ["echo said; echo b >&2; exit 4", "echo well", "exit 5"]
    desk.run(*lines)
    log = desk.read_log("failed.log")
    assert "return code 4" in log
    assert "$ echo said; echo b >&2; exit 4\nsaid\nb\n" in log
    assert "$ exit 5\n" in log
    assert desk.read_log("done.log") == ""
    desk.run(*lines, "echo fine", keep_logs=True)
    assert "$ echo fine\nfine\n" in desk.read_log("done.log")
    assert sorted(path.name for path in desk.places.folder.rglob("*") if path.is_file()) == [
        *("done.log", "failed.log", "failed_commands", "journal.jsonl", "table.tsv"),
    ]


def test_failed_commands_are_a_list_that_can_be_run(desk: Desk) -> None:
    lines = ["true", note("a", "test -e mended"), note("b", "test -e mended")]
    desk.run(*lines)
    assert desk.places.failed_commands.read_text().splitlines() == lines[1:]
    (desk.cwd / "mended").touch()
    assert desk.run(*desk.places.failed_commands.read_text().splitlines()).n_done == 2
    assert desk.run(*lines).n_earlier == 3
    assert not desk.places.failed_commands.exists()


def test_the_error_counts_failures_and_tells_what_the_first_ones_said(desk: Desk) -> None:
    summary = desk.run("true", *(f"echo fault {i} >&2; exit {i}" for i in range(1, 8)))
    with pytest.raises(CommandsError) as caught:
        summary.check()
    text = str(caught.value)
    assert text.startswith("7 of 8 commands failed.  What the first ones said:\n")
    assert "\n  line 2, return code 1: fault 1\n" in text
    assert "fault 5" in text
    assert "fault 6" not in text
    assert str(desk.places.failed_commands) in text


def test_nothing_new_starts_after_too_many_failures(desk: Desk) -> None:
    lines = ["true", *[note(str(i), "false") for i in range(5)]]
    summary = desk.run(*lines, max_failures=1)
    assert (summary.n_done, len(summary.failed), summary.n_not_run) == (1, 2, 3)
    assert desk.ran == ["0", "1"]
    with pytest.raises(CommandsError, match="and 3 were not run: more have failed than max_fail"):
        summary.check()
    assert desk.run(*lines, max_failures=4).n_not_run == 0


def test_values_of_variables_reach_commands_and_nothing_that_is_kept(desk: Desk) -> None:
    """Also values with spaces and line breaks, in which some launchers end."""
    secret = "one two\n'three\" $x"
    summary = desk.run(
        'printf %s "$SECRET" > given', "exit 3", env={"SECRET": secret}, keep_logs=True
    )
    assert summary.n_done == 1
    assert (desk.cwd / "given").read_text() == secret
    for path in desk.places.folder.rglob("*"):
        assert path.is_dir() or "three" not in path.read_text()


def test_a_command_that_takes_too_long_fails_and_says_so(desk: Desk) -> None:
    summary = desk.run("sleep 600", "true", timeout_s=0.2)
    [(_, outcome)] = summary.failed
    assert outcome.returncode == 124
    assert outcome.stderr == "timeout: it was ended after 0.2 s"
    assert summary.n_done == 1


def test_those_who_listen_are_told_of_each_command(desk: Desk) -> None:
    told: Counter[str] = Counter()
    with listening(lambda what, n: told.update({what: n})):
        desk.run(*[f"true {i}" for i in range(20)], "false", n_procs=3)
    assert told == {"commands": 21}


def test_an_error_of_those_who_listen_ends_the_run(desk: Desk) -> None:
    """Also one of the kind that an empty queue has."""

    def listen(what: str, n: int) -> None:
        raise IndexError("no such bar")

    with listening(listen), pytest.raises(IndexError, match="no such bar"):
        desk.run(note("a"), note("b"), n_procs=1)
    assert desk.ran == ["a"]


# -- Products ------------------------------------------------------------------------------


def make(word: str, rest: str = "true") -> str:
    return f"echo {word} >> ran; touch {word}.nii; {rest}"


def test_a_command_whose_product_is_there_is_done_and_one_without_is_not(desk: Desk) -> None:
    (desk.cwd / "b.nii").touch()
    lines = [make("a"), make("b"), make("c")]
    assert desk.run(*lines, done_glob="{1}.nii*").n_earlier == 1
    assert desk.ran == ["a", "c"]
    (desk.cwd / "c.nii").unlink()
    assert desk.run(*lines, done_glob="{1}.nii*").n_earlier == 2
    assert desk.ran == ["a", "c", "c"]


def test_a_command_that_ends_with_0_and_leaves_no_product_has_failed(desk: Desk) -> None:
    """As one whose failure a pipe hides."""
    summary = desk.run("echo a | false | tee log", done_glob="{1}.nii")
    [(_, outcome)] = summary.failed
    assert outcome.returncode == 0
    assert outcome.stderr == f"it ended with 0, but there is no {desk.cwd}/a.nii"
    assert "there is no" in summary_text(summary)


def summary_text(summary: Summary) -> str:
    with pytest.raises(CommandsError) as caught:
        summary.check()
    return str(caught.value)


def test_the_product_of_a_command_that_failed_is_not_believed(desk: Desk) -> None:
    line = make("a", "test -e mended")
    assert desk.run(line, done_glob="{1}.nii").failed
    (desk.cwd / "mended").touch()
    assert desk.run(line, done_glob="{1}.nii")[1:3] == (1, 0)
    assert desk.run(line, done_glob="{1}.nii")[1:3] == (1, 1)


def test_the_product_of_a_command_whose_end_nobody_knows_is_not_believed(desk: Desk) -> None:
    line = make("a")
    [command] = number_commands([line])
    started = {"started": command.identify(str(desk.cwd))}
    desk.places.journal.write_text(json.dumps(started) + "\n")
    (desk.cwd / "a.nii").touch()
    assert desk.run(line, done_glob="{1}.nii").n_earlier == 0
    assert desk.ran == ["a"]


# -- The journal ---------------------------------------------------------------------------


def test_what_a_lost_worker_has_noted_counts_and_moves_into_the_journal(desk: Desk) -> None:
    desk.run(note("a"), note("b"))
    desk.places.bundles.mkdir()
    desk.places.journal.rename(desk.places.bundles / "x.jsonl")
    assert desk.run(note("a"), note("b"), note("c")).n_earlier == 2
    assert desk.ran == ["a", "b", "c"]
    assert not list(desk.places.bundles.iterdir())
    assert desk.run(note("a"), note("b"), note("c")).n_earlier == 3


@pytest.mark.parametrize(
    "damage",
    [
        b'{"key": "torn',
        b'\xff\x00\n[1]\n{"key": 3}\n{"started": {}}\n',
        b'{"key": "x", "command": 1, "is_done": 1, "returncode": [], "host": 1, "seconds": "a", '
        b'"stderr": 0, "time": 0}\n',
    ],
)
def test_lines_of_a_journal_that_are_torn_or_no_lines_say_nothing(desk: Desk, damage) -> None:
    desk.run(note("a"))
    with desk.places.journal.open("ab") as file:
        file.write(damage)
    assert desk.run(note("a"), note("b")).n_earlier == 1
    assert desk.run(note("a"), note("b")).n_earlier == 2
    assert desk.ran == ["a", "b"]


def test_a_link_in_the_place_of_the_journal_is_refused(desk: Desk, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    desk.places.journal.symlink_to(precious)
    with pytest.raises(InputError, match="symbolic link"):
        desk.run(note("a"))
    assert precious.read_text() == "keep"
    assert desk.ran == []


# -- Before anything starts ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        (["no_such_tool x"], {}, "Line 2: 'no_such_tool' is not there"),
        (["echo 'a"], {}, "cannot be read by the shell"),
        (["echo a"], {"done_glob": "{7}"}, "names word 7"),
    ],
)
def test_what_cannot_run_is_found_before_anything_runs(desk: Desk, lines, options, words) -> None:
    with pytest.raises(InputError, match=words):
        desk.run(note("a"), *lines, **options)
    assert desk.ran == []
    assert not desk.places.journal.exists()


def test_a_working_directory_that_is_not_there_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.cwd = tmp_path / "none"
    with pytest.raises(InputError, match=r"cwd .*none is no folder"):
        desk.run("true")
