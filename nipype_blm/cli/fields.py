"""Describe every field of a configuration file for ``--help``."""

import textwrap
from collections.abc import Iterable

from nipype_blm.cli.command import EXIT_CODES
from nipype_blm.frontends.blm import IGNORED, Entry, list_entries


def describe_fields(model: str = "blm") -> str:
    """Return the text that explains all fields of a model."""
    entries = list_entries(model)
    return "\n".join(
        [
            "mandatory fields of CONFIG.yml:",
            *_describe(entry for entry in entries if entry.is_mandatory),
            "",
            "optional fields:",
            *_describe(entry for entry in entries if not entry.is_mandatory),
            "",
            f"accepted without effect: {', '.join(IGNORED)}",
            "",
            "Relative paths are resolved against the file that names them.",
            EXIT_CODES,
        ]
    )


def _describe(entries: Iterable[Entry], indent: int = 2) -> list[str]:
    lines = []
    for entry in entries:
        first = f"{' ' * indent}{entry.name}"
        lines += textwrap.wrap(
            entry.description,
            width=88,
            initial_indent=f"{first:<21} ",
            subsequent_indent=" " * 22,
        )
        lines += _describe(entry.entries, indent + 2)
    return lines
