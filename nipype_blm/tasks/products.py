"""What commands are to leave, by which it is known that they are done."""

import glob
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from fnmatch import fnmatchcase

from nipype_blm.errors import InputError, count, join_some, show
from nipype_blm.tasks.commandlist import Command
from nipype_blm.tasks.disks import list_names


class Products:
    """Files by which commands are known to be done.

    Parameters
    ----------
    template : str
        A pattern of names in which ``{3}`` is word 3 of the command; 0 is its program.
    cwd : str
        Where relative paths begin.
    """

    def __init__(self, template: str, cwd: str) -> None:
        self._template, self._cwd = template, cwd
        self._listed: dict[str, list[str]] = {}  # the names in each folder, sorted

    def find_pattern(self, command: Command) -> str:
        """Return where the product of a command is looked for."""
        words = command.split()
        pattern = re.sub(
            r"\{(\d+)\}", lambda found: glob.escape(words[int(found[1])]), self._template
        )
        return os.path.join(glob.escape(self._cwd), pattern)  # noqa: PTH118

    def check(self, commands: Sequence[Command]) -> None:
        """Refuse a template that names words which commands do not have.

        Raises
        ------
        InputError
        """
        numbers = [int(number) for number in re.findall(r"\{(\d+)\}", self._template)]
        if not numbers:
            raise InputError(
                f"done_glob is {show(self._template)}, which is the same for all commands; name "
                "a word of the command by its number in braces, such as {2} (0 is the program)."
            )
        short = [command for command in commands if len(command.split()) <= max(numbers)]
        if short:
            lines = join_some((command.line for command in short), 10)
            raise InputError(
                f"done_glob names word {max(numbers)} of each command (0 is the program), which "
                f"{count(len(short), 'command')} lacks (line {lines}): {show(short[0].text)}."
            )

    def is_there(self, command: Command) -> bool:
        """Return whether a product is on the disk now."""
        pattern = self.find_pattern(command)
        list_names(os.path.dirname(pattern))  # noqa: PTH120, of a disk that shows files late
        return any(glob.iglob(pattern))  # noqa: PTH207, a text that glob.escape has made

    def is_listed(self, command: Command) -> bool:
        """Return the same as of when the folder was first looked at.

        Folders of thousands of products are listed once, not once for each.
        """
        folder, name = os.path.split(self.find_pattern(command))
        plain = re.sub(r"\[(.)\]", r"\1", folder)  # what glob.escape has done
        if glob.escape(plain) != folder:
            return self.is_there(command)
        if plain not in self._listed:
            self._listed[plain] = sorted(list_names(plain))
        names = self._listed[plain]
        # In brackets stand single characters that are no pattern.
        start = re.sub(r"\[([*?[])\]", r"\1", _split_magic(name))
        for i in range(bisect_left(names, start), len(names)):
            if not names[i].startswith(start):
                return False
            if fnmatchcase(names[i], name) and (not names[i].startswith(".") or name[0] == "."):
                return True
        return False


def _split_magic(name: str) -> str:
    """Return what a pattern begins with before anything that stands for other characters."""
    found = re.match(r"(?:[^*?[]|\[[*?[]\])*", name)
    return found[0] if found else ""
