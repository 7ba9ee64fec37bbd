"""Lists of shell commands, one a line: read, and checked before any of them runs."""

import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from nipype_blm.errors import InputError, join_some, show
from nipype_blm.tasks.shell import BUILTINS, KEYWORDS, PLAIN, find_shell, list_functions

_LONGEST = 128 * 1024 - 1  # bytes that Linux hands on as one argument
_MOST_SHOWN = 10  # lines with the same fault


class Command(NamedTuple):
    """A line of a list."""

    text: str
    line: int  # number in its file, from 1
    n: int = 1  # which one of those with the same text

    def identify(self, cwd: str) -> str:
        """Return what tells a command from all others, wherever it stands in a list."""
        content = "\0".join((cwd, self.text, str(self.n)))
        return sha256(content.encode(errors="surrogateescape")).hexdigest()[:20]

    def split(self) -> list[str]:
        """Return its words; none where only a shell can tell."""
        try:
            return shlex.split(self.text)
        except ValueError:
            return []


def read_commands(path: Path) -> list[Command]:
    """Return the commands of a file: all lines but empty ones and those that begin with #.

    The same line twice is two commands.

    Raises
    ------
    InputError
        If there is none, or the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if b"\0" in content:
        raise InputError(
            f"{path} has bytes that no text has (as UTF-16 does); save it as UTF-8, one command "
            "a line."
        )
    # Names of files need not be UTF-8.
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    commands = number_commands(line.decode(errors="surrogateescape") for line in lines)
    if not commands:
        raise InputError(f"{path} has no command; expected one a line.")
    return commands


def number_commands(lines: Iterable[str]) -> list[Command]:
    """Return the commands among some lines."""
    seen: Counter[str] = Counter()
    commands = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            seen[text] += 1
            commands.append(Command(text, number, seen[text]))
    return commands


def check_commands(commands: Sequence[Command]) -> None:
    """Refuse what no shell can read, or what would not be what it looks like.

    Raises
    ------
    InputError
        With all faults, by line.
    """
    faults = {
        "is longer than a command can be (128 KiB); put it into a script": _is_too_long,
        "ends with a backslash: a command is one line; join it with the next one": _goes_on,
        "has a line break: a command is one line": _has_break,
        "ends with &: it would be taken for done before it is; leave out the &": _is_background,
    }
    problems = [
        f"{_list_lines(found)} {fault}."
        for fault, has_fault in faults.items()
        if (found := [command for command in commands if has_fault(command.text)])
    ]
    if not problems:
        problems = _check_grammar(commands)
    if problems:
        raise InputError(problems)


def _is_too_long(text: str) -> bool:
    return len(os.fsencode(text)) > _LONGEST


def _goes_on(text: str) -> bool:
    return re.search(r"(?<!\\)(\\\\)*\\$", text) is not None


def _has_break(text: str) -> bool:
    return "\n" in text or "\r" in text


def _is_background(text: str) -> bool:
    return re.search(r"(?<![&>\\])&$", text) is not None


def _check_grammar(commands: Sequence[Command]) -> list[str]:
    """Return what the shell itself says against commands, one of each shape."""
    shapes: dict[str, list[Command]] = {}
    for command in commands:
        shape = _find_shape(command.text)
        if shape is not None:
            shapes.setdefault(shape, []).append(command)
    problems = []
    for found in shapes.values():
        process = subprocess.run(
            [find_shell(), "-n", "-c", "--", found[0].text],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        if process.returncode:
            said = (process.stderr.strip().splitlines() or ["it is no command"])[0]
            said = re.sub(r"^\S*sh: (-c: )?(line \d+: )?", "", said)
            problems.append(f"{_list_lines(found)} cannot be read by the shell: {said}.")
    return problems


def _find_shape(text: str) -> str | None:
    """Return a command without its plain words; None if it has nothing else.

    Lists are written by loops: thousands of lines have few shapes, and the shell reads one of each.
    """

    def shorten_word(found: re.Match[str]) -> str:
        return found[0] if found[0] in KEYWORDS or "\\" in found[0] else "w"

    shape = re.sub(PLAIN, shorten_word, text)
    return None if re.fullmatch(r"[w\s]+", shape) else shape


def list_programs(commands: Sequence[Command]) -> dict[str, list[Command]]:
    """Return the commands by the program that they begin with.

    What only a shell can tell is left out: builtins, keywords, variables and assignments.
    """
    programs: dict[str, list[Command]] = {}
    for command in commands:
        found = re.match(rf"({PLAIN})(?=[\s;|&<>]|$)", command.text)
        quoted = re.match(r"'([^']+)'(?=\s|$)", command.text)
        word = found[1] if found else quoted[1] if quoted else ""
        if word and not (re.search(r"[=\\]", word) or word in KEYWORDS | BUILTINS):
            programs.setdefault(word, []).append(command)
    return programs


def find_missing(programs: Iterable[str], cwd: str, env: Mapping[str, str]) -> list[str]:
    """Return the programs that this machine has not."""
    path = env.get("PATH", os.environ.get("PATH", os.defpath))
    functions = list_functions({**os.environ, **env})

    def is_there(program: str) -> bool:
        if program in functions:
            return True
        if "/" not in program:
            folders = [os.path.join(cwd, each) for each in path.split(os.pathsep)]  # noqa: PTH118
            return shutil.which(program, path=os.pathsep.join(folders)) is not None
        return shutil.which(os.path.join(cwd, program)) is not None  # noqa: PTH118

    return [program for program in programs if not is_there(program)]


def describe_missing(
    missing: Iterable[str], programs: Mapping[str, Sequence[Command]], where: str
) -> list[str]:
    """Return what is to be said of programs that are not there."""
    return [
        f"{_list_numbers(programs[program])}: {show(program)} is not there, or cannot be run, on "
        f"{where}; install it, or set PATH."
        for program in missing
    ]


def _list_lines(commands: Sequence[Command]) -> str:
    return f"{_list_numbers(commands)}: {show(commands[0].text)}"


def _list_numbers(commands: Sequence[Command]) -> str:
    lines = join_some((command.line for command in commands), _MOST_SHOWN)
    return f"Line{'s' * (len(commands) > 1)} {lines}"
