"""Describe every field of a configuration file for ``--help``."""

import textwrap
from typing import Any

from nipype_blm.cli.command import EXIT_CODES
from nipype_blm.model.config import IGNORED_FIELDS, NESTED_FIELDS, BlmConfig, ModelConfig


def describe_fields(model: type[ModelConfig] = BlmConfig) -> str:
    """Return the text that explains all fields of a model."""
    fields = model.model_fields
    mandatory = {name: info for name, info in fields.items() if info.is_required()}
    optional = {
        name: info
        for name, info in fields.items()
        if not info.is_required() and name not in IGNORED_FIELDS
    }
    return "\n".join(
        [
            "mandatory fields of CONFIG.yml:",
            *_describe(mandatory),
            "",
            "optional fields:",
            *_describe(optional),
            "",
            f"accepted without effect: {', '.join(IGNORED_FIELDS)}",
            "",
            "Relative paths are resolved against the file that names them.",
            EXIT_CODES,
        ]
    )


def _describe(fields: dict[str, Any], indent: int = 2) -> list[str]:
    lines = []
    for name, info in fields.items():
        first = f"{' ' * indent}{name}"
        lines += textwrap.wrap(
            info.description or "",
            width=88,
            initial_indent=f"{first:<21} ",
            subsequent_indent=" " * 22,
        )
        if name in NESTED_FIELDS:
            lines += _describe(dict(NESTED_FIELDS[name].model_fields), indent + 2)
    return lines
