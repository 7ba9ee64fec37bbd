"""Every image registered to every other one, to find the one that needs least deformation."""

from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.progress import advance
from nipype_blm.tasks.journal import LineWriter, read_lines
from nipype_blm.tbss.engines import ENGINES
from nipype_blm.tbss.images import Volume
from nipype_blm.tbss.options import FA
from nipype_blm.tbss.plan import Plan
from nipype_blm.tbss.registration import (
    FAILED,
    Judgement,
    RegistrationError,
    judge,
    prepare_fa,
    register,
)


@dataclass(frozen=True)
class Pair:
    """What is known of an image that was brought onto another one."""

    fixed: str  # names of both
    moving: str
    stamp: str
    correlation: float  # of the two, where the fixed one is above 0
    displacement_mm: float  # median over the brain, without the best rigid motion


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
    path.touch()  # also where there is nothing to do
    done = {_key(pair) for pair in _read_pairs(path)}
    for fixed, moving in pairs:
        if not _is_done(plan, (fixed, moving), done):
            pair = _register_pair(plan, fixed, moving)
            with LineWriter(path) as lines:
                lines.write(*map(asdict, pair))
        advance("registrations", 1)
    return path


def _register_pair(plan: Plan, fixed: int, moving: int) -> list[Pair]:
    """Return what is known of one registration: of both directions, if the engine gives both."""
    subjects = (plan.subjects[i] for i in (fixed, moving))
    one, other = (_prepare(each.images[FA], each.stamps[FA], plan.spacing) for each in subjects)
    forward, backward = (fixed, moving), (moving, fixed)
    engine = plan.options.engine
    try:
        warps = register(one, other, engine)
    except RegistrationError:
        judged = [(forward, FAILED), (backward, FAILED)]
        return [_note(plan, *each) for each in judged[: 1 + ENGINES[engine].has_inverse]]
    found = [_note(plan, forward, judge(warps.forward, one, other))]
    if warps.inverse is not None:
        found.append(_note(plan, backward, judge(warps.inverse, other, one)))
    return found


def _note(plan: Plan, pair: tuple[int, int], judged: Judgement) -> Pair:
    return Pair(*_find_key(plan, *pair), *judged)


# The images of a bundle share most of their fixed ones; a stamp tells a file from one before it.
@lru_cache(maxsize=4)
def _prepare(path: Path, _: str, spacing: float) -> Volume:
    return prepare_fa(path, spacing).isotropic


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

    A pair whose registration failed counts as the farthest of all; an image that failed with most
    others cannot be chosen.  The table of all pairs is written beside the results.

    Raises
    ------
    InputError
        If no image can be chosen, or pairs are missing.

    Notes
    -----
    As the user guide of FSL's TBSS describes the choice: of the mean over all others of how far
    they are warped.
    """
    known = read_pairs(plan)
    n = len(plan.subjects)
    distance = np.full((n, n), np.nan)
    correlation = np.full((n, n), np.nan)
    n_missing = 0
    for fixed, moving in permutations(range(n), 2):
        pair = known.get(_find_key(plan, fixed, moving))
        if pair is None:
            n_missing += 1
            continue
        correlation[fixed, moving] = pair.correlation
        if pair.correlation >= plan.options.min_correlation:
            distance[fixed, moving] = pair.displacement_mm
    if n_missing:
        raise InputError(
            f"{count(n_missing, 'pair')} of images {'is' if n_missing == 1 else 'are'} not "
            "registered; run again, which does what is missing."
        )
    _write_table(plan, distance, correlation)
    has_failed = np.isnan(distance) & ~np.eye(n, dtype=bool)
    is_able = has_failed.sum(axis=1) <= (n - 1) / 2
    if not is_able.any():
        raise InputError(
            "No image can be the target: with most others, registration has failed for each (a "
            f"correlation below {plan.options.min_correlation:g}, min_correlation).  Look at "
            f"{plan.paths.pairs_table}, and register to a template instead."
        )
    distance[has_failed] = np.nanmax(distance)
    mean = np.where(is_able, np.nansum(distance, axis=1), np.inf)
    return int(mean.argmin())


def _write_table(plan: Plan, distance: Any, correlation: Any) -> None:
    rows = ["fixed\tmoving\tcorrelation\tdisplacement_mm\n"]
    for fixed, moving in np.argwhere(np.isfinite(correlation)):
        names = plan.subjects[fixed].name, plan.subjects[moving].name
        value = distance[fixed, moving]
        shown = f"{value:.4g}" if np.isfinite(value) else "n/a"
        rows.append("\t".join([*names, f"{correlation[fixed, moving]:.4f}", shown]) + "\n")
    write_if_changed(plan.paths.pairs_table, "".join(rows).encode())


def describe_failed(plan: Plan) -> list[str]:
    """Return notices of the pairs whose registration failed."""
    low = plan.options.min_correlation
    # Others are of earlier runs: of images that are not in this one, or were not the same.
    n = len(plan.subjects)
    asked = {_find_key(plan, *pair) for pair in permutations(range(n), 2)}
    known = read_pairs(plan).items()
    failed = [pair for key, pair in known if key in asked and pair.correlation < low]
    if not failed:
        return []
    some = join_some((f"{p.moving} to {p.fixed} ({p.correlation:.2f})" for p in failed), 5)
    return [f"Registration failed for {count(len(failed), 'pair')}, which are left out: {some}."]
