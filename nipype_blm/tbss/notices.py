"""What the stages of a TBSS found odd: kept in the work folder, for who runs them elsewhere."""

import json
from collections.abc import Sequence

from nipype_blm.io.files import write_if_changed
from nipype_blm.tbss.plan import Plan

_STAGES = ("choose", "skeleton", "assemble")  # in their order


def write_notices(plan: Plan, stage: str, notices: Sequence[str]) -> None:
    """Keep what a stage found odd, in the place of what it found in an earlier run."""
    content = f"{json.dumps(list(notices))}\n".encode()
    write_if_changed(plan.paths.find_notices(stage), content)


def read_notices(plan: Plan) -> list[str]:
    """Return what all stages found odd."""
    paths = [plan.paths.find_notices(stage) for stage in _STAGES]
    return [notice for path in paths if path.is_file() for notice in json.loads(path.read_text())]
