"""What was found when inputs were looked at: what is wrong, and what may not be meant."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nipype_blm.errors import shorten

Box = Sequence[Sequence[float]]  # both corners, um


class Findings(NamedTuple):
    """Sentences for users."""

    problems: list[str]  # with which no circuit can be computed, or none that is right
    notices: list[str]

    def refuse(self, text: str) -> None:
        """Note a problem."""
        self.problems.append(text)

    def notice(self, text: str) -> None:
        """Note what may not be meant."""
        self.notices.append(text)

    def refuse_unread(self, name: str, facts: Any, expected: str) -> bool:
        """Note that something could not be read, and return whether that is so."""
        error = facts.get("error")
        if error is not None:
            text = shorten(" ".join(error.split()), 300).rstrip(".")
            self.refuse(f"{name} cannot be read ({text}); expected {expected}.")
        return error is not None


def show_box(box: Box) -> str:
    """Return both corners of a box as "x 0 to 70, y 0 to 70, z 0 to 70 um"."""
    ranges = zip("xyz", *box, strict=True)
    return ", ".join(f"{axis} {low:.6g} to {high:.6g}" for axis, low, high in ranges) + " um"
