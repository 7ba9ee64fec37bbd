"""Every image registered to every other one, to find the one that needs least deformation."""

from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.progress import advance
from nipype_blm.tasks.journal import LineWriter, read_lines
from nipype_blm.tbss.engines import ENGINES
from nipype_blm.tbss.fields import measure_displacement
from nipype_blm.tbss.plan import FA, Plan
from nipype_blm.tbss.registration import Prepared, correlate, prepare_fa, register


@dataclass(frozen=True)
class Pair:
    """What is known of an image that was brought onto another one."""

    fixed: str  # names of both
    moving: str
    stamp: str
    correlation: float  # of the two, where the fixed one is above 0
    displacement: float  # median of the squared one without the best rigid motion, mm²


def list_missing(plan: Plan) -> list[tuple[int, int]]:
    """Return the registrations that are still to be done, as (fixed, moving)."""
    done = read_pairs(plan)
    return [pair for pair in _list_registrations(plan) if not _is_done(plan, pair, done)]


def _is_done(plan: Plan, pair: tuple[int, int], done: Container[tuple[str, str, str]]) -> bool:
    """Say whether all that a registration gives is known: a kill may have torn one of two lines."""
    fixed, moving = pair
    is_known = _find_key(plan, fixed, moving) in done
    if ENGINES[plan.options.engine].has_inverse:
        is_known = is_known and _find_key(plan, moving, fixed) in done
    return is_known


def _list_registrations(plan: Plan) -> Iterator[tuple[int, int]]:
    """Yield each pair once if the engine gives both directions, else twice."""
    n = len(plan.subjects)
    is_halved = ENGINES[plan.options.engine].has_inverse
    for fixed in range(n):
        for moving in range(fixed + 1 if is_halved else 0, n):
            if fixed != moving:
                yield fixed, moving


def _find_key(plan: Plan, fixed: int, moving: int) -> tuple[str, str, str]:
    subjects = plan.subjects
    return subjects[fixed].name, subjects[moving].name, plan.stamp_pair(fixed, moving)


def register_pairs(plan: Plan, bundle: int) -> Path:
    """Register the pairs of a bundle that are not done yet; return the file of what was found.

    Each is noted as soon as it is done: what is killed goes on from there.
    """
    pairs = plan.pair_bundles[bundle]
    path = plan.paths.pairs / f"{fingerprint(*(str(pair) for pair in pairs))[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(pair) for pair in _read_pairs(path)}
    for fixed, moving in pairs:
        if not _is_done(plan, (fixed, moving), done):
            pair = _register_pair(plan, fixed, moving)
            with LineWriter(path) as lines:
                lines.write(*map(asdict, pair))
        advance("registrations", 1)
    return path


def _register_pair(plan: Plan, fixed: int, moving: int) -> list[Pair]:
    subjects = (plan.subjects[i] for i in (fixed, moving))
    one, other = (_prepare(each.images[FA], each.stamp, plan.spacing) for each in subjects)
    warps = register(one.isotropic, other.isotropic, plan.options.engine)
    found = [_describe(plan, (fixed, moving), warps.forward, one, other)]
    if warps.inverse is not None:
        found.append(_describe(plan, (moving, fixed), warps.inverse, other, one))
    return found


# The images of a bundle share most of their fixed ones; a stamp tells a file from one before it.
@lru_cache(maxsize=4)
def _prepare(path: Path, _: str, spacing: float) -> Prepared:
    return prepare_fa(path, spacing)


def _describe(
    plan: Plan, pair: tuple[int, int], field: Any, fixed: Prepared, moving: Prepared
) -> Pair:
    fixed_name, moving_name, stamp = _find_key(plan, *pair)
    correlation = correlate(field, fixed.isotropic, moving.isotropic)
    displacement = measure_displacement(field, fixed.isotropic) if correlation > -1 else -1.0
    return Pair(fixed_name, moving_name, stamp, correlation, displacement)


def _read_pairs(path: Path) -> Iterator[Pair]:
    for line in read_lines(path):
        with suppress(TypeError):
            yield Pair(**line)


def _key(pair: Pair) -> tuple[str, str, str]:
    return pair.fixed, pair.moving, pair.stamp


def read_pairs(plan: Plan) -> dict[tuple[str, str, str], Pair]:
    """Return all that was found by now, by names of fixed and moving image and stamp."""
    files = sorted(plan.paths.pairs.glob("*.jsonl"))
    return {_key(pair): pair for path in files for pair in _read_pairs(path)}


def choose_target(plan: Plan) -> int:
    """Return the most representative image: to which all others need least deformation.

    Pairs whose registration failed are left out; an image that failed with most others cannot be
    chosen.  The table of all pairs is written beside the results.

    Raises
    ------
    InputError
        If no image can be chosen.

    Notes
    -----
    As the user guide of FSL's TBSS describes the choice: of the mean over all others of how far
    they are warped.  Here that is the root of the median squared displacement, without the best
    rigid motion.
    """
    known = read_pairs(plan)
    n = len(plan.subjects)
    distance = np.full((n, n), np.nan)
    correlation = np.full((n, n), np.nan)
    for fixed in range(n):
        for moving in range(n):
            pair = known.get(_find_key(plan, fixed, moving)) if fixed != moving else None
            if pair is not None:
                correlation[fixed, moving] = pair.correlation
                if pair.correlation >= plan.options.min_correlation:
                    distance[fixed, moving] = np.sqrt(pair.displacement)
    _write_table(plan, distance, correlation)
    n_good = np.isfinite(distance).sum(axis=1)
    is_able = n_good >= max(1, (n - 1) / 2)
    if not is_able.any():
        raise InputError(
            f"No image can be the target: with most others, registration has failed for each "
            f"(a correlation below {plan.options.min_correlation:g}, min_correlation).  Look at "
            f"{plan.out_dir / 'pairs.tsv'}, and register to a template instead."
        )
    mean = np.full(n, np.inf)
    mean[is_able] = np.nanmean(distance[is_able], axis=1)
    return int(mean.argmin())


def _write_table(plan: Plan, distance: Any, correlation: Any) -> None:
    rows = ["fixed\tmoving\tcorrelation\tdisplacement_mm\n"]
    for fixed, moving in np.argwhere(np.isfinite(correlation)):
        names = plan.subjects[fixed].name, plan.subjects[moving].name
        value = distance[fixed, moving]
        shown = f"{value:.4g}" if np.isfinite(value) else "n/a"
        rows.append("\t".join([*names, f"{correlation[fixed, moving]:.4f}", shown]) + "\n")
    write_if_changed(plan.out_dir / "pairs.tsv", "".join(rows).encode())


def describe_failed(plan: Plan) -> list[str]:
    """Return notices of the pairs whose registration failed."""
    low = plan.options.min_correlation
    # Others are of earlier runs: of images that are not in this one, or were not the same.
    n = len(plan.subjects)
    asked = {_find_key(plan, i, j) for i in range(n) for j in range(n) if i != j}
    known = read_pairs(plan).items()
    failed = [pair for key, pair in known if key in asked and pair.correlation < low]
    if not failed:
        return []
    some = join_some((f"{p.moving} to {p.fixed} ({p.correlation:.2f})" for p in failed), 5)
    return [f"Registration failed for {count(len(failed), 'pair')}, which are left out: {some}."]
