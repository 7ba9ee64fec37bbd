"""Contrasts in FSL's files: a .con, and the .fts whose F tests combine its rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError, Problem, Words, about, show
from nipype_blm.io.paths import resolve_path
from nipype_blm.io.tables import read_text
from nipype_blm.io.vest import Vest, read_weights


def expand_contrasts(
    data: Mapping[str, Any], base: Path, words: Words
) -> tuple[dict[str, Any], list[Problem]]:
    """Return fields with contrasts in the place of the files that have them.

    Parameters
    ----------
    data : mapping
        Fields by their names in `Fields`: ``contrasts`` may be a path, and ``f_contrasts`` is one.
    base : Path
        Where relative paths start.
    words : Words
        Of the front end.

    Returns
    -------
    fields : dict
        Without ``f_contrasts``.  Contrasts that cannot be read are those that were given.
    problems : list of Problem
    """
    fields = dict(data)
    f_given = fields.pop("f_contrasts", None)
    try:
        file = _find_file(fields.get("contrasts"), base)
        if file is not None:
            f_file = None if f_given is None else _resolve("f_contrasts", f_given, base)
            fields["contrasts"] = read_contrasts(file, f_file, words)
        elif f_given is not None:
            template = (
                "{f_contrasts} combines the rows of a file of contrasts; give that (.con) as "
                "{contrasts}, or write the rows of each F contrast there."
            )
            raise InputError(Problem("f_contrasts", template))
    except InputError as error:
        return fields, about("contrasts", error.problems)
    return fields, []


def _find_file(given: Any, base: Path) -> Path | None:
    """Return the file that contrasts are in, if they are not given themselves."""
    if isinstance(given, Path) or (isinstance(given, str) and given.strip().endswith(".con")):
        return _resolve("contrasts", given, base)
    may_be_path = isinstance(given, str) and ("." in given or "/" in given)
    try:
        path = resolve_path(given, base) if may_be_path else None
    except ValueError:  # such as weights, which are no path
        return None
    # Without an ending it is the name of a column, whatever files there are.
    return path if path is not None and path.suffix and path.is_file() else None


def _resolve(field: str, given: Any, base: Path) -> Path:
    if not isinstance(given, str | Path) or not str(given).strip():
        template = f"{{{field}}}: {{given}} was given; expected the path of a file of FSL."
        raise InputError(Problem(field, template, given=show(given)))
    try:
        return resolve_path(str(given).strip(), base)
    except ValueError as error:
        raise InputError(Problem(field, f"{{{field}}}: {{fault}}.", fault=error)) from error


def read_contrasts(path: Path, f_path: Path | None, words: Words) -> list[dict[str, Any]]:
    """Return the contrasts of a .con, and behind them the F tests of a .fts.

    Names are those of the file, with a number where two are the same; without one a contrast is
    called c1, c2, ..., and an F test F1, F2, ...

    Parameters
    ----------
    path : Path
        Of a .con.
    f_path : Path or None
        Of a .fts, each of whose rows says which contrasts an F test has.
    words : Words
        Of the front end, for messages.

    Returns
    -------
    contrasts : list of dict
        With ``name`` and ``vector``: a row of weights for T, several for F.

    Raises
    ------
    InputError
        If a file cannot be read, or the two do not belong together.
    """
    weights = _read(path, words.name("contrasts"))
    names = [weights.names.get(i) or f"c{i + 1}" for i in range(len(weights.values))]
    vectors: list[Any] = weights.values.tolist()
    if f_path is not None:
        tests = _read(f_path, words.name("f_contrasts"))
        _check_tests(f"{words.name('f_contrasts')} {f_path}", tests, path, len(names))
        names += [f"F{i}" for i in range(1, len(tests.values) + 1)]
        vectors += [weights.values[row != 0].tolist() for row in tests.values]
    pairs = zip(_distinguish(names), vectors, strict=True)
    return [{"name": name, "vector": vector} for name, vector in pairs]


def _read(path: Path, what: str) -> Vest:
    return read_weights(read_text(path, what), f"{what} {path}")


def _check_tests(source: str, tests: Vest, path: Path, n_contrasts: int) -> None:
    """Refuse F tests of other contrasts, or of none."""
    n_columns = tests.values.shape[1]
    if n_columns != n_contrasts:
        raise InputError(
            f"{source} combines {n_columns} contrasts, but {path} has {n_contrasts}; give two "
            "files of one design."
        )
    empty = [str(i) for i, row in enumerate(tests.values, 1) if not row.any()]
    if empty:
        raise InputError(f"{source} has no contrast for F test {', '.join(empty)}; leave it out.")


def _distinguish(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        found.append(f"{name} ({number})" if name in found else name)
    return found
