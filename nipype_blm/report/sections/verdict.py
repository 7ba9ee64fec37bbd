"""TODO."""

from typing import Any

from nipype_blm.report.reported import Reported


def make(run: Reported) -> dict[str, Any]:
    """Return what the template shows."""
    return {}
