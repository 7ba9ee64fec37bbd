"""What may be exchanged under a null hypothesis: how many resamplings there are, and which.

Weights of a resampling depend on the seed and its number only, never on those drawn with it.
Number 0 is the identity.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int8]
Orders = NDArray[np.int32]


class Exchange(NamedTuple):
    """Which images a resampling may flip or exchange.

    Signs are flipped by group.  Images are permuted freely, unless `within` or `whole` say how
    groups hold them: within each group, groups of equal size as wholes, or both.
    """

    n_obs: int
    group: NDArray[np.int32]  # (n_obs,), from 0
    within: bool = False
    whole: bool = False
    # Images with equal numbers have equal rows of X, so that exchanging them changes nothing.
    kind: NDArray[np.int32] | None = None

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.group.max()) + 1

    def find_members(self) -> list[list[int]]:
        """Return the images of each group."""
        order = np.argsort(self.group, kind="stable")
        counts = np.bincount(self.group, minlength=self.n_groups)
        return [part.tolist() for part in np.split(order, np.cumsum(counts)[:-1])]


def find_kinds(X: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return a number for each row of X, equal for equal rows."""
    return np.unique(X, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def count_flips(exchange: Exchange, two_sided: bool) -> int:
    """Return the number of flips that differ; f and -f are one where signs do not matter."""
    return 1 << (exchange.n_groups - int(two_sided))


def draw_flips(
    exchange: Exchange,
    seed: int,
    numbers: range,
    exhaustive: bool = False,
    two_sided: bool = True,
) -> Signs:
    """Return the signs of the flips with these numbers.

    Parameters
    ----------
    exchange : Exchange
    seed : int
        Of 64 bits.
    numbers : range
    exhaustive : bool
        Number the flips that differ, below `count_flips`, instead of drawing them at random.
    two_sided : bool
        Whether f and -f are one; matters to exhaustive numbers.

    Returns
    -------
    int8 array of shape (len(numbers), n_groups)
    """
    n = exchange.n_groups
    signs = np.ones((len(numbers), n), np.int8)
    for row, number in zip(signs, numbers, strict=True):
        if exhaustive:
            first = int(two_sided)
            bits = [number >> i & 1 for i in range(n - first)]
            row[first:] -= 2 * np.array(bits, np.int8)
        elif number:
            words = _draw_words(seed, number, -(-n // 64)).astype("<u8").view(np.uint8)
            row -= 2 * np.unpackbits(words, count=n, bitorder="little").astype(np.int8)
    return signs


def count_permutations(exchange: Exchange, two_sided: bool = True) -> int:
    """Return the number of permutations that differ; signs make no difference to it."""
    kinds = _kinds(exchange)
    members = exchange.find_members()
    if not (exchange.within or exchange.whole):
        return _count_arrangements(kinds)
    count = 1
    if exchange.within:
        count = math.prod(_count_arrangements([kinds[i] for i in images]) for images in members)
    if exchange.whole:
        for groups in _of_equal_size(members):
            count *= _count_arrangements([_describe(exchange, kinds, members[g]) for g in groups])
    return count


def draw_permutations(
    exchange: Exchange,
    seed: int,
    numbers: range,
    exhaustive: bool = False,
    two_sided: bool = True,
) -> Orders:
    """Return the permutations with these numbers: which row of X each image is given.

    Parameters
    ----------
    exchange, seed, numbers, exhaustive, two_sided
        As of `draw_flips`.

    Returns
    -------
    int32 array of shape (len(numbers), n_obs)
    """
    orders = np.empty((len(numbers), exchange.n_obs), np.int32)
    members = exchange.find_members()
    for row, number in zip(orders, numbers, strict=True):
        if exhaustive:
            row[:] = _find_order(exchange, members, number)
        elif number == 0:
            row[:] = np.arange(exchange.n_obs)
        else:
            row[:] = _draw_order(exchange, members, seed, number)
    return orders


def _draw_words(seed: int, number: int, n: int) -> NDArray[np.uint64]:
    """Return random words that belong to a number: each has 2^64 counts of its own."""
    counter = np.array([0, number, 0, 0], np.uint64)
    key = np.array([seed % (1 << 64), 0], np.uint64)
    return np.asarray(np.random.Philox(counter=counter, key=key).random_raw(n))


def _draw_order(exchange: Exchange, members: list[list[int]], seed: int, number: int) -> Orders:
    """Return a random permutation: the order of random words."""
    words = _draw_words(seed, number, exchange.n_obs + len(members))
    keys, group_keys = words[: exchange.n_obs], words[exchange.n_obs :]
    if not (exchange.within or exchange.whole):
        return np.argsort(keys, kind="stable").astype(np.int32)
    order = np.arange(exchange.n_obs, dtype=np.int32)
    if exchange.whole:
        for groups in _of_equal_size(members):
            shuffled = np.argsort(group_keys[groups], kind="stable")
            for place, k in zip(groups, shuffled, strict=True):
                order[members[place]] = members[groups[k]]
    if exchange.within:
        for images in members:
            order[images] = order[images][np.argsort(keys[images], kind="stable")]
    return order


def _find_order(exchange: Exchange, members: list[list[int]], number: int) -> list[int]:
    """Return a permutation by its place in the list of all that differ."""
    kinds = _kinds(exchange)
    if not (exchange.within or exchange.whole):
        return _arrange(range(exchange.n_obs), kinds, number)[0]
    order = list(range(exchange.n_obs))
    if exchange.whole:
        for groups in _of_equal_size(members):
            descriptions = [_describe(exchange, kinds, members[g]) for g in groups]
            arranged, number = _arrange(groups, descriptions, number)
            for place, g in zip(groups, arranged, strict=True):
                for i, k in zip(members[place], members[g], strict=True):
                    order[i] = k
    if exchange.within:
        for images in members:
            rows = [order[i] for i in images]
            arranged, number = _arrange(rows, [kinds[k] for k in rows], number)
            for i, k in zip(images, arranged, strict=True):
                order[i] = k
    return order


def _kinds(exchange: Exchange) -> list[int]:
    return list(range(exchange.n_obs)) if exchange.kind is None else exchange.kind.tolist()


def _describe(exchange: Exchange, kinds: list[int], images: list[int]) -> tuple[int, ...]:
    """Return what groups have in common that may change places without a difference."""
    found = [kinds[i] for i in images]
    return tuple(sorted(found) if exchange.within else found)


def _of_equal_size(members: list[list[int]]) -> list[list[int]]:
    """Return lists of groups with equally many images."""
    sizes: dict[int, list[int]] = {}
    for g, images in enumerate(members):
        sizes.setdefault(len(images), []).append(g)
    return list(sizes.values())


def _count_arrangements(kinds: Sequence[Hashable]) -> int:
    """Return in how many orders things can stand that differ in kind only."""
    count = math.factorial(len(kinds))
    for alike in Counter(kinds).values():
        count //= math.factorial(alike)
    return count


def _arrange(
    things: Iterable[int], kinds: Sequence[Hashable], number: int
) -> tuple[list[int], int]:
    """Return arrangement `number` modulo the number of arrangements, and the quotient.

    Number 0 is the order in which things come; things of one kind stay in theirs.
    """
    count = _count_arrangements(kinds)
    quotient, number = divmod(number, count)
    left: dict[Hashable, list[int]] = {}
    for thing, kind in zip(things, kinds, strict=True):
        left.setdefault(kind, []).append(thing)
    arranged: list[int] = []
    for i, usual in enumerate(kinds):
        n_left = len(kinds) - i
        # The usual kind first, if it is left, so that number 0 changes nothing.
        for kind in sorted(left, key=lambda k: k != usual):
            n_alike = len(left[kind])
            share = count * n_alike // n_left
            if number < share:
                break
            number -= share
        count = share
        arranged.append(left[kind].pop(0))
        if not left[kind]:
            del left[kind]
    return arranged, quotient
