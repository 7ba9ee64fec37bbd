"""Which image a row belongs to, as far as its name is found in the names of images."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, combinations, takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray

# What has to be found in the name of an image, part by part; () for a row without a name.
Key = tuple[str, ...]

_WORD = re.compile(r"[^\W\d_]+|\d+")  # 02, sub, cope
_PADDING = re.compile(r"(?<!\d)0+(?=\d)")
_TWO_NUMBERS = re.compile(r"\d[\W_]+\d")
_PREFIX = re.compile(r"(?<![^/])[a-z]+(?=sub-)")
# Such as sub-02_ses-1, whose parts may have others between them in the name of a file.
_ENTITIES = re.compile(r"[a-z]+-[a-z0-9]+([_/ ]+[a-z]+-[a-z0-9]+)+")
_WHOLE_NUMBER = re.compile(r"\d+(\.0*)?")
_KEYED_NUMBER = re.compile(r"(?:([^\W\d_]+)[-_ ]?)?(\d+)")
_ANY_WORD = "*"
_SUBJECT_KEYS = {"sub", "subj", "subject", "s", "participant", "id"}
_ID_HEADERS = {*_SUBJECT_KEYS - {"s"}, "subid", "subjid", "subjectid", "participantid"}

# What may stand in names of images and be a regressor all the same.
_MEASURES = {"age", "year", "month", "week", "day", "hour", "minute", "time", "dose", "visit"}
_MEASURES |= {f"{word}s" for word in _MEASURES} | {"session", "run", "trial"}


class NameMatch(NamedTuple):
    """Names of rows, and which of them are found in the name of each image."""

    keys: list[Key]  # of each row
    found: list[set[Key]]  # of each image

    @property
    def is_telling(self) -> bool:
        """Whether the names of most rows are found, and in the names of most images."""
        known: set[Key] = set().union(*self.found)
        n_rows = sum(key in known for key in self.keys)
        n_images = sum(map(bool, self.found))
        return 2 * n_rows > len(self.keys) and 2 * n_images > len(self.found)

    def find_contradictions(self) -> list[int]:
        """Return the rows that are named in other images, but not in their own.

        Row and image i belong together; there are as many of them.
        """
        if not self.is_telling:
            return []
        known: set[Key] = set().union(*self.found)
        pairs = enumerate(zip(self.keys, self.found, strict=True))
        return [i for i, (key, here) in pairs if key in known and key not in here]

    @property
    def is_permutation(self) -> bool:
        """Whether every image has the name of one row, and rows and images are as many."""
        images = Counter(key for here in self.found for key in here)
        return all(len(here) == 1 for here in self.found) and images == Counter(self.keys)

    def sort_rows(self) -> NDArray[np.intp]:
        """Return the row of each image, if `is_permutation`; rows of a name in their order."""
        rows: dict[Key, list[int]] = defaultdict(list)
        for i, key in reversed(list(enumerate(self.keys))):
            rows[key].append(i)
        return np.array([rows[key].pop() for [key] in self.found], np.intp)


def match_names(
    labels: Sequence[str], names: Sequence[str], *, may_be_counts: bool = False
) -> NameMatch:
    """Look for the names of rows in the names of images.

    A name is found where it stands between separators, or where letters and digits meet:
    sub-1 in sub-1_cope1.nii and in sub-01/cope1.nii, not in sub-10.nii.  Separators and case
    do not count, nor do leading zeros unless two names differ in nothing else.  A name that
    is found in all images says nothing.

    Numbers without letters are found in any text; they are compared with the numbers at one
    place of the names: behind sub or the like, or wherever there are the same numbers.

    Parameters
    ----------
    labels : sequence of str
        The name of each row, without the ending of a file; "" without one.
    names : sequence of str
        The path of each image.
    may_be_counts : bool
        Whether numbers may just count rows, so that 1, 2, ... say nothing.
    """
    labels = [_fold(label) for label in labels]
    names = [_fold(name) for name in names]
    if all(_WHOLE_NUMBER.fullmatch(label) for label in labels):
        numbers = [int(label.partition(".")[0]) for label in labels]
        if may_be_counts and is_count(numbers):
            return NameMatch([()] * len(labels), [set() for _ in names])
        return _match_numbers(numbers, names, must_be_same=may_be_counts)
    return _match_text(labels, names)


def agree_as_written(labels: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether each name of an image has that of its row, letter by letter.

    Mostly it does, and that is seen much sooner than by `match_names`.
    """

    def is_within(label: str, name: str) -> bool:
        start = name.find(label)
        around = name[start - 1 : start] + name[start + len(label) :][:1]
        return start >= 0 and not label.isdecimal() and not any(c.isalnum() for c in around)

    return all(map(is_within, labels, names))


def is_count(numbers: Sequence[int]) -> bool:
    """Return whether numbers may count rows, or be ranks: none is above how many there are."""
    return max(numbers) <= len(numbers)


def may_name_images(labels: Sequence[str]) -> bool:
    """Return whether the labels of a random factor may be parts of the names of images.

    Not words such as left and right, nor numbers from 1 on: many things are called so, and
    those in the names may be others.
    """
    if all(_WHOLE_NUMBER.fullmatch(label) for label in labels):
        return not is_count([int(label.partition(".")[0]) for label in labels])
    return all(any(c.isdigit() for c in label) for label in labels)


def find_id_columns(
    values: FloatArray, headers: Sequence[str], names: Sequence[str]
) -> list[tuple[int, str]]:
    """Return columns of numbers that look like names of rows, and the reason.

    Whole numbers are meant, more than two different ones: two may be a group.  They look so
    by their header, or because they are the numbers of the subjects in the names of images;
    not if they may be counts or ranks, such as a trend over 1, 2, ...; nor, behind no word that
    stands for a subject, if their header says that they measure something.

    Parameters
    ----------
    values : array of shape (n_rows, n_columns)
    headers : sequence of str
        Names of the columns.
    names : sequence of str
        The path of each image; none if these do not tell them apart.
    """
    places = None
    found = []
    for i, (column, header) in enumerate(zip(values.T, headers, strict=True)):
        if not (np.isfinite(column) & (column >= 0) & (column == np.floor(column))).all():
            continue
        distinct = np.unique(column)
        if len(distinct) <= 2:
            continue
        if is_id_header(header):
            found.append((i, "its header says so"))
            continue
        numbers = [int(x) for x in column.tolist()]
        if len(distinct) < len(numbers) or is_count(numbers):
            continue
        keys = set(_SUBJECT_KEYS)
        if not _MEASURES & set(_WORD.findall(_fold(header))):
            keys.add("")  # numbers behind no word
        if places is None:
            places = _list_numbers(_fold(name) for name in names)
        if any(
            letters in keys and sorted(at.values()) == sorted(numbers)
            for (letters, _), at in places.items()
        ):
            found.append((i, "its numbers are in the names of the images"))
    return found


def is_id_header(header: str) -> bool:
    """Return whether the header of a column says that it names rows: participant_id, ID, ..."""
    words = _WORD.findall(_fold(header))
    return "".join(words) in _ID_HEADERS or (len(words) > 1 and words[-1] == "id")


def varying_parts(names: Sequence[str], with_word_before: bool) -> list[str]:
    """Return what differs between names, from the first word that does to the last.

    Parameters
    ----------
    names : sequence of str
    with_word_before : bool
        Whether the word before belongs to it, such as sub before 01.
    """
    words = [[(m[0], *m.span()) for m in _WORD.finditer(name)] for name in names]
    texts = [[text for text, *_ in each] for each in words]
    n_before = _count_shared(texts)
    n_after = _count_shared([each[: n_before - 1 if n_before else None : -1] for each in texts])
    first = max(n_before - with_word_before, 0)
    parts = []
    for name, each in zip(names, words, strict=True):
        spans = each[first : len(each) - n_after]
        parts.append(name[spans[0][1] : spans[-1][2]] if spans else "")
    return parts


def _count_shared(lists: Sequence[Sequence[str]]) -> int:
    """Return how many elements at the start of all lists are the same."""
    columns = zip(*lists, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _fold(text: str) -> str:
    """Return text without what makes no difference.

    That is case, how accents are written, and letters before sub-, such as those of SPM in
    swsub-01.
    """
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _PREFIX.sub("", text)


def _match_text(labels: Sequence[str], names: Sequence[str]) -> NameMatch:
    padded = not (_differ_in_zeros(labels) or _differ_in_zeros(names))
    key_of = {label: _make_key(label, padded) for label in set(labels)}
    keys = {key for key in key_of.values() if key}
    by_parts = {frozenset(key): key for key in keys}
    sizes = sorted({len(parts) for parts in by_parts})
    finder = _PartFinder({part for key in keys for part in key}, padded)
    found: list[set[Key]] = []
    for name in names:
        here = finder.find(name)
        sets = (frozenset(some) for size in sizes for some in combinations(here, size))
        found.append(_keep_longest({by_parts[parts] for parts in sets if parts in by_parts}))
    return _drop_constant(NameMatch([key_of[label] for label in labels], found))


def _differ_in_zeros(texts: Sequence[str]) -> bool:
    """Return whether some texts differ in leading zeros only."""
    distinct = set(texts)
    return len({_PADDING.sub("", text) for text in distinct}) < len(distinct)


def _make_key(label: str, padded: bool) -> Key:
    parts = re.split(r"[_/ ]+", label) if _ENTITIES.fullmatch(label) else [label]
    return tuple(spelled for part in parts if (spelled := _spell(part, padded)[0]))


def _spell(text: str, padded: bool) -> tuple[str, list[int]]:
    """Return text without separators, but for those between numbers, and where words start."""
    words = _WORD.findall(_PADDING.sub("", text) if padded else text)
    if _TWO_NUMBERS.search(text):  # 1_0 is not 10
        pairs = zip(["", *words], words, strict=False)
        words = [f"-{b}" if a[-1:].isdigit() and b[0].isdigit() else b for a, b in pairs]
    starts = [
        start + word.startswith("-")
        for start, word in zip(accumulate(map(len, words), initial=0), words, strict=False)
    ]
    return "".join(words), starts


class _PartFinder:
    """Finds parts of keys in the names of images, at the start and end of words."""

    def __init__(self, parts: set[str], padded: bool) -> None:
        self._parts = parts
        self._padded = padded
        self._heads = {part[:2] for part in parts}
        self._lengths = sorted({len(part) for part in parts})

    def find(self, name: str) -> list[str]:
        spelled, starts = _spell(name, self._padded)
        ends = {*starts, len(spelled)}
        found: dict[str, None] = {}  # keeps their order
        for start in starts:
            if spelled[start : start + 2] not in self._heads and spelled[start] not in self._heads:
                continue
            for length in self._lengths:
                end = start + length
                part = spelled[start:end]
                if part in self._parts and (end in ends or spelled[end : end + 1] == "-"):
                    found[part] = None
        return list(found)


def _keep_longest(keys: set[Key]) -> set[Key]:
    """Leave out keys that are within others, as anna is within anna b."""
    if len(keys) < 2:
        return keys

    def is_within(key: Key, other: Key) -> bool:
        return key != other and all(any(part in whole for whole in other) for part in key)

    return {key for key in keys if not any(is_within(key, other) for other in keys)}


def _drop_constant(match: NameMatch) -> NameMatch:
    """Leave out what is found in all images: the name of a folder, say."""
    if len(set(match.keys)) == 1 or not match.found:
        return match
    constant = set.intersection(*match.found)
    return match._replace(found=[here - constant for here in match.found])


def _match_numbers(numbers: list[int], names: Sequence[str], must_be_same: bool) -> NameMatch:
    """Compare numbers with those at the place of the names that agrees best."""
    wanted = set(numbers)
    is_unique = len(wanted) == len(numbers)

    def is_fit(letters: str, at: dict[int, int]) -> bool:
        is_subject = letters in _SUBJECT_KEYS
        if len(at) == len(names) and set(at.values()) == wanted:
            return is_unique or is_subject or not letters
        return is_subject and is_unique and not must_be_same and _overlaps(wanted, at)

    def rate(place: tuple[str, int]) -> tuple[bool, int]:
        at = places[place]
        return place[0] in _SUBJECT_KEYS, sum(at.get(i) == x for i, x in enumerate(numbers))

    places = {place: at for place, at in _list_numbers(names).items() if is_fit(place[0], at)}
    at = places[max(places, key=rate)] if places else {}
    found = [{at.get(i, -1)} & wanted for i in range(len(names))]
    return NameMatch([(str(x),) for x in numbers], [{(str(x),) for x in here} for here in found])


def _overlaps(wanted: set[int], at: dict[int, int]) -> bool:
    """Return whether most of both are in the other."""
    shared = wanted & set(at.values())
    return 2 * len(shared) > len(wanted) and 2 * sum(x in wanted for x in at.values()) > len(at)


def _list_numbers(names: Iterable[str]) -> dict[tuple[str, int], dict[int, int]]:
    """Return the numbers at each place of the names, by image.

    A place is the word before the number, and how often it came before in the name; or how
    many numbers follow it, since the word may be one of several sites.
    """
    places: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    for i, name in enumerate(names):
        seen: Counter[str] = Counter()
        numbers = _KEYED_NUMBER.findall(name)
        for n_before, (letters, digits) in enumerate(numbers, 1):
            places[letters, seen[letters]][i] = int(digits)
            seen[letters] += 1
            places[_ANY_WORD, len(numbers) - n_before][i] = int(digits)
    return places
