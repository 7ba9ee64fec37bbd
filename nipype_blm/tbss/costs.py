"""How long a TBSS takes, said before it begins; measured on one core of a common machine."""

from datetime import timedelta

from nipype_blm.errors import count
from nipype_blm.tbss.engines import ENGINES
from nipype_blm.tbss.plan import Plan

# CPU seconds of one registration on cubes of which a human head has 900,000, with all around it.
SECONDS = {"greedy": 11.0, "ants": 20.0, "fsl": 200.0}


def describe_costs(plan: Plan) -> str:
    """Say what would be done, and what that takes."""
    n, n_pairs = len(plan.subjects), count_pairs(plan)
    each = SECONDS[plan.options.engine]
    lines = [f"{count(n, 'image')} of FA" + _describe_maps(plan)]
    if plan.options.target == "template":
        lines.append(f"Target: {plan.options.template}")
    else:
        lines.append(
            f"Target: the most representative image; {n_pairs:,} registrations are to be done to "
            "find it"
        )
    total = timedelta(seconds=round((n + n_pairs) * each))
    lines += [
        f"Engine: {plan.options.engine}, {ENGINES[plan.options.engine].words}; on cubes of "
        f"{plan.spacing:.3g} mm",
        f"About {total} of CPU time, at {each:g} s for each registration, by as many workers as "
        "there are",
        f"{count(len(plan.batches), 'batch').replace('batchs', 'batches')} of images"
        + (f", {len(plan.pair_bundles)} bundles of pairs" if n_pairs else ""),
    ]
    return "\n".join(lines)


def _describe_maps(plan: Plan) -> str:
    others = plan.measures[1:]
    return f", and of {', '.join(others)}" if others else ""


def count_pairs(plan: Plan) -> int:
    """Return how many pairs are still to be registered."""
    return sum(map(len, plan.pair_bundles))
