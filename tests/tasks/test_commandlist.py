"""Lists of commands: how they are read, and what is found before anything runs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nipype_blm.errors import InputError
from nipype_blm.tasks.commandlist import (
    Command,
    check_commands,
    find_missing,
    list_programs,
    number_commands,
    read_commands,
)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], list[Command]]:
    def read(content: bytes) -> list[Command]:
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        return read_commands(path)

    return read


def find_problems(*lines: str) -> list[str]:
    try:
        check_commands(number_commands(lines))
    except InputError as error:
        return list(error.problems)
    return []


def test_empty_lines_and_comments_are_no_commands_and_lines_keep_their_numbers(read) -> None:
    commands = read(b"#!/bin/sh\n\n  a 1  \n\t\n # b\nc '# d'\n")
    assert commands == [Command("a 1", 3), Command("c '# d'", 6)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lists_of_all_systems_are_the_same_also_without_a_last_line_break(read, end) -> None:
    content = b"\xef\xbb\xbf" + end.join([b"a 1", b"b 2", b"", b"c 3"])
    assert [c.text for c in read(content)] == ["a 1", "b 2", "c 3"]


def test_characters_within_a_line_do_not_end_it_and_bytes_that_are_no_text_stay(read) -> None:
    """A form feed, a separator of Unicode, and a name in Latin-1."""
    [command] = read("a \x0c\u2028".encode() + b"\x85\xe9")
    assert os.fsencode(command.text) == "a \x0c\u2028".encode() + b"\x85\xe9"


def test_the_same_line_twice_is_two_commands_wherever_it_stands() -> None:
    first, other, second = number_commands(["a", "b", "a"])
    keys = {c.identify("/x") for c in (first, other, second)}
    assert len(keys) == 3
    again = number_commands(["", "a", "a", "c"])
    assert [c.identify("/x") for c in again[:2]] == [first.identify("/x"), second.identify("/x")]
    assert first.identify("/y") not in keys


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no command; expected one a line"),
        (b"\n# a\n", "has no command"),
        ("a 1\n".encode("utf-16"), "save it as UTF-8"),
    ],
)
def test_a_file_without_commands_is_refused(read, content, words) -> None:
    with pytest.raises(InputError, match=words):
        read(content)


def test_a_file_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none.txt cannot be read: No such file"):
        read_commands(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "text",
    [
        "fsl_reg a b a_to_b -e -FA",
        "echo it\\'s",
        "echo a # it's a comment",
        "echo $'it\\'s'",
        "for i in 1 2; do echo $i; done",
        "(cd x && ./tool) > log 2>&1",
        "a && b || c | d",
        "if true; then a; fi",
        "echo 'a & b' \\&",
        "echo a & wait",
        "cat <<< text",
        "echo \\\\",
        "-x",
    ],
)
def test_what_a_shell_reads_is_not_refused(text) -> None:
    assert find_problems(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'a", "cannot be read by the shell: unexpected EOF"),
        ('echo "a', "cannot be read by the shell"),
        ("for i in 1 2; do echo $i", "cannot be read by the shell: syntax error"),
        ("a && ", "cannot be read by the shell"),
        ("(a", "cannot be read by the shell"),
        ("echo it's", "cannot be read by the shell"),
        ("a \\", "ends with a backslash: a command is one line"),
        ("sleep 5 &", "ends with &: it would be taken for done before it is"),
        ("a" * 131_072, "is longer than a command can be"),
        ("a\nb", "has a line break"),
    ],
)
def test_what_no_shell_can_read_is_refused_with_its_line(text, words) -> None:
    [problem] = find_problems("true", text)
    assert problem.startswith("Line 2: ")
    assert words in problem


def test_thousands_of_lines_with_one_fault_are_one_problem() -> None:
    lines = [f"tool sub-{i:04d} 'out" for i in range(3000)] + ["tool sub > 'log'"] * 100
    [problem] = find_problems(*lines)
    assert problem.startswith("Lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ... and 2990 more: ")


def test_programs_are_found_in_the_path_and_in_the_working_directory(tmp_path) -> None:
    for name in ("tool", "my tool", "data"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o644 if name == "data" else 0o755)
    (tmp_path / "folder").mkdir()
    lines = [
        *("ls", "./tool x", f"{tmp_path}/tool", "'./my tool' x", "cd x && none", "A=1 none"),
        *("$TOOL x", "for i in 1; do none; done", "[ -e x ] && none", "~/none", "(none)", "true"),
    ]
    programs = list_programs(number_commands(lines))
    assert find_missing(programs, str(tmp_path), {}) == []
    bad = ["no_such_tool x", "./data", "./folder", "folder/none;ls", "tool"]
    programs = list_programs(number_commands(bad))
    expected = ["no_such_tool", "./data", "./folder", "folder/none", "tool"]
    assert find_missing(programs, str(tmp_path), {}) == expected
    assert find_missing(["tool"], str(tmp_path), {"PATH": str(tmp_path)}) == []
