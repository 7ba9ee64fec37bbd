"""Join the tables of a BIDS data set to its images: participants, sessions, scans, phenotype."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.errors import InputError, Problem, count, join_some, show
from nipype_blm.frontends.columns import explain_absence, natural_key
from nipype_blm.frontends.listed import fold_label
from nipype_blm.io.bids import ENTITIES, BidsFile, name_entity, split_name, strip_label
from nipype_blm.io.frames import read_frame
from nipype_blm.model.study import Excluded

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, ...]

# What an image and the file that it comes from have in common.
_RAW = (
    *("subject", "session", "task", "acquisition", "ceagent", "tracer", "reconstruction"),
    *("direction", "run", "modality"),
)
_ALIASES = {"participant_id": ("subject", "sub"), "session_id": ("session", "ses")}


class Joined(NamedTuple):
    """The frame with the columns of all tables, and what there is to say of them."""

    frame: "pd.DataFrame"
    excluded: list[Excluded]  # subjects without an image
    notices: list[str]


class _Table(NamedTuple):
    """Columns of one kind of table, in the order of the images."""

    stem: str  # such as sessions
    source: str  # what messages call it
    columns: dict[str, list[str]]  # "" for images without a row
    levels: dict[str, list[str]]
    repeated: list[str]


def join_tables(
    frame: "pd.DataFrame",
    files: Sequence[BidsFile],
    bids_dir: Path,
    subjects: Iterable[str] | None = None,
) -> Joined:
    """Return a frame of entities with what the tables of the data set say of each image.

    Columns that several tables have, with other content, get the name of their table before
    their own, as in sessions_age.  Tables other than participants.tsv that cannot be used are
    left aside, which is told to whom asks for their columns.

    Parameters
    ----------
    frame : DataFrame
        A row for each file.
    files : sequence of BidsFile
    bids_dir : Path
    subjects : iterable of str, optional
        Labels of those that are wanted; default: all.

    Raises
    ------
    InputError
        If participants.tsv cannot be read, or has several rows for one observation.
    """
    notices: list[str] = []
    excluded: list[Excluded] = []
    tables: list[_Table | None] = []
    path = bids_dir / "participants.tsv"
    if path.is_file():
        wanted = None if subjects is None else set(subjects)
        tables.append(_join_participants(path, files, wanted, excluded, notices))
    else:
        notices.append(f"{path} does not exist; there are the labels of file names only.")
    joins: list[Callable[[], _Table | None]] = [
        *(partial(_join_keyed, each, files, notices) for each in _list_phenotypes(bids_dir)),
        partial(_join_sessions, bids_dir, files),
        partial(_join_scans, bids_dir, files, notices),
    ]
    aside = []
    for join in joins:
        try:
            tables.append(join())
        except InputError as error:  # no reason to stop where nothing of it is needed
            aside.append(f"Left aside: {error}")
    notices += aside
    joined = _add_columns(frame, [each for each in tables if each and each.columns], notices)
    joined.attrs["aside"] = aside
    return Joined(joined, excluded, notices)


def _add_columns(
    frame: "pd.DataFrame", tables: Sequence[_Table], notices: list[str]
) -> "pd.DataFrame":
    """Return a frame with the columns of all tables."""
    import pandas as pd

    known = {name for table in tables for name in table.columns}
    # An entity that is the same everywhere, such as space, makes way for a column of its name.
    frame = frame.drop(columns=[n for n in frame if n in known and frame[n].nunique() == 1])
    names: dict[str, list[_Table]] = defaultdict(list)
    for table in tables:
        for name in table.columns:
            names[name].append(table)
    columns: dict[str, list[str]] = {}
    sources, levels = {}, {}
    for name, owners in names.items():
        is_same = all(table.columns[name] == owners[0].columns[name] for table in owners)
        if name in frame.columns or not is_same:
            keys = [f"{table.stem}_{name}" for table in owners]
            notices.append(
                f"{name} is in {join_some((t.source for t in owners), separator=' and ')}"
                + (" and in the names of images" if name in frame.columns else "")
                + f": {'they are' if len(keys) > 1 else 'the column is'} called "
                f"{join_some(keys, separator=' and ')}."
            )
        else:
            owners, keys = owners[:1], [name]
        for key, table in zip(keys, owners, strict=True):
            columns[key] = table.columns[name]
            sources[key] = table.source
            if name in table.levels:
                levels[key] = table.levels[name]
    for alias, (entity, short) in _ALIASES.items():
        if entity in frame.columns and alias not in columns:
            columns[alias] = ["" if x != x else f"{short}-{x}" for x in frame[entity]]
    joined = pd.concat(
        [frame, pd.DataFrame(columns, index=frame.index, dtype=object)], axis="columns"
    )
    joined.attrs = {
        **frame.attrs,
        "sources": sources,
        "levels": levels,
        "repeated": {name: table.source for table in tables for name in table.repeated},
    }
    return joined


def _join_participants(
    path: Path,
    files: Sequence[BidsFile],
    wanted: set[str] | None,
    excluded: list[Excluded],
    notices: list[str],
) -> _Table:
    """Return the columns of participants.tsv, and note who is in one place only."""
    table = _join_keyed(path, files, notices)
    frame = read_frame(path, "table")
    column = _find_key(frame, "subject", path)
    labels = [strip_label(cell, "subject") for cell in frame[column]]
    known = {file.entities["subject"] for file in files}
    folded = set(map(fold_label, known))
    if folded.isdisjoint(map(fold_label, labels)):
        raise InputError(
            Problem(
                "bids",
                "{source} has no row of any subject with images: it has {labels}; images are of "
                "{known}.  Write the labels as the names of the files have them.",
                source=path.name,
                labels=join_some(map(show, frame[column]), 5),
                known=join_some((f"sub-{x}" for x in sorted(known, key=natural_key)), 5),
            )
        )
    without = [
        label
        for label in dict.fromkeys(labels)
        if label not in known and fold_label(label) not in folded
        if wanted is None or label in wanted
    ]
    excluded += [Excluded(f"sub-{label}", "", "no image") for label in without]
    if without:
        some = join_some(f"sub-{label}" for label in without)
        notices.append(
            f"{len(without)} of {count(len(set(labels)), 'participant')} of {path.name} "
            f"{'has' if len(without) == 1 else 'have'} no image: {some}."
        )
    return table


def _list_phenotypes(bids_dir: Path) -> list[Path]:
    folder = bids_dir / "phenotype"
    return sorted(folder.glob("*.tsv")) if folder.is_dir() else []


def _find_key(frame: "pd.DataFrame", entity: str, path: Path) -> str:
    found = [name for name in frame.columns if name_entity(name) == entity]
    exact = [name for name in found if name.casefold() in ("participant_id", "session_id")]
    if len(exact or found) != 1:
        raise InputError(explain_absence("participant_id", frame))
    return str((exact or found)[0])


def _join_keyed(path: Path, files: Sequence[BidsFile], notices: list[str]) -> _Table:
    """Return the columns of a table with a row for each subject, or subject and session."""
    frame = read_frame(path, "table")
    notices += frame.attrs["notices"]
    columns = {"subject": _find_key(frame, "subject", path)}
    labels = [strip_label(cell, "subject") for cell in frame[columns["subject"]]]
    for entity in ("session", "run"):
        more = [name for name in frame.columns if name_entity(name) == entity]
        if len(more) == 1 and _tells_apart(labels, frame[more[0]], files, entity):
            columns[entity] = more[0]
    keys = [
        tuple(strip_label(cell, entity) for entity, cell in zip(columns, cells, strict=True))
        for cells in frame[list(columns.values())].itertuples(index=False)
    ]
    _refuse_repeats(keys, frame, list(columns.values()))
    of_images = [tuple(file.entities.get(entity, "") for entity in columns) for file in files]
    rows, n_folded = _match_keys(of_images, keys)
    if n_folded:
        notices.append(
            f"{count(n_folded, 'image')} {'is' if n_folded == 1 else 'are'} of subjects that "
            f"{path.name} writes otherwise, in case or in zeros before numbers."
        )
    n_without = rows.count(None)
    if n_without:
        without = {
            " ".join(f"{ENTITIES[name]}-{x}" for name, x in zip(columns, key, strict=True))
            for key, row in zip(of_images, rows, strict=True)
            if row is None
        }
        notices.append(
            f"{count(n_without, 'image')} {'has' if n_without == 1 else 'have'} no row in "
            f"{path.name}: {join_some(sorted(without, key=natural_key))}."
        )
    kept = [name for name in frame.columns if name not in columns.values()]
    cells = {name: list(frame[name]) for name in kept}
    return _Table(
        path.stem,
        path.name,
        {name: ["" if i is None else cells[name][i] for i in rows] for name in kept},
        frame.attrs["levels"],
        list(frame.attrs["repeated"]),
    )


def _tells_apart(
    labels: Sequence[str], cells: Sequence[str], files: Sequence[BidsFile], entity: str
) -> bool:
    """Return whether rows are of single sessions, say: that column has labels of images."""
    of_images = {fold_label(file.entities[entity]) for file in files if entity in file.entities}
    of_rows = {fold_label(strip_label(cell, entity)) for cell in cells}
    return bool(of_images & of_rows) or len(set(labels)) < len(labels)


def _refuse_repeats(keys: Sequence[Key], frame: "pd.DataFrame", columns: Sequence[str]) -> None:
    lines: dict[Key, list[int]] = defaultdict(list)
    for line, key in zip(frame.index, keys, strict=True):
        lines[key].append(line)
    some = [
        f"{' '.join(key)} in lines {join_some(found)}"
        for key, found in lines.items()
        if len(found) > 1
    ]
    if some:
        raise InputError(
            Problem(
                "bids",
                "{source} has several rows with the same {columns}: {some}.  Leave one of each"
                + (", or add a column session_id." if len(columns) == 1 else "."),
                source=frame.attrs["source"],
                columns=join_some(columns, separator=" and "),
                some=join_some(some, separator="; "),
            )
        )


def _match_keys(of_images: Sequence[Key], keys: Sequence[Key]) -> tuple[list[int | None], int]:
    """Return the row of each image, and how many differ in case or zeros, where that is safe."""
    rows = {key: i for i, key in enumerate(keys)}
    found = [rows.get(key) for key in of_images]
    folded: dict[Key, list[Key]] = defaultdict(list)
    for key in {*keys, *of_images}:
        folded[tuple(map(fold_label, key))].append(key)
    n_folded = 0
    for i, key in enumerate(of_images):
        if found[i] is None:
            # Of two, one is that of the image, and the other that of its row.
            twins = folded[tuple(map(fold_label, key))]
            others = [each for each in twins if each in rows]
            if len(twins) == 2 and len(others) == 1:
                found[i] = rows[others[0]]
                n_folded += 1
    return found, n_folded


def _join_sessions(bids_dir: Path, files: Sequence[BidsFile]) -> _Table | None:
    """Return the columns of the sessions.tsv of each subject."""
    found: dict[Key, dict[str, str]] = {}
    levels: dict[str, list[str]] = {}
    for subject in dict.fromkeys(f.entities["subject"] for f in files if "session" in f.entities):
        path = bids_dir / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        if not path.is_file():
            continue
        frame = read_frame(path, "table")
        column = next((name for name in frame.columns if name_entity(name) == "session"), None)
        if column is None:
            raise InputError(explain_absence("session_id", frame))
        keys: list[Key] = [(subject, strip_label(cell, "session")) for cell in frame[column]]
        _refuse_repeats(keys, frame, [column])
        levels |= frame.attrs["levels"]
        for key, row in zip(keys, frame.drop(columns=column).to_dict("records"), strict=True):
            found[key] = row
    if not found:
        return None
    of_images = [(f.entities["subject"], f.entities.get("session", "")) for f in files]
    rows, _ = _match_keys(of_images, list(found))
    records = list(found.values())
    return _collect("sessions", [{} if i is None else records[i] for i in rows], levels)


def _collect(stem: str, records: Sequence[dict[str, str]], levels: dict[str, list[str]]) -> _Table:
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name, "") for record in records] for name in names}
    return _Table(stem, f"{stem}.tsv", columns, levels, [])


def _join_scans(bids_dir: Path, files: Sequence[BidsFile], notices: list[str]) -> _Table | None:
    """Return the columns of the scans.tsv of each subject or session."""
    folders = {(f.entities["subject"], f.entities.get("session")) for f in files}
    scans: dict[Key, list[tuple[dict[str, str], str, dict[str, str]]]] = defaultdict(list)
    levels: dict[str, list[str]] = {}
    for subject, session in folders:
        names = [f"sub-{subject}"] + ([f"ses-{session}"] if session else [])
        path = bids_dir.joinpath(*names) / f"{'_'.join(names)}_scans.tsv"
        if not path.is_file():
            continue
        frame = read_frame(path, "table")
        if "filename" not in frame.columns:
            raise InputError(explain_absence("filename", frame))
        levels |= frame.attrs["levels"]
        for record in frame.to_dict("records"):
            entities, suffix, _ = split_name(record.pop("filename").rpartition("/")[2])
            scans[subject, session or ""].append((entities, suffix, record))
    if not scans:
        return None
    records, unclear = [], []
    for file in files:
        key = file.entities["subject"], file.entities.get("session", "")
        found = _find_scans(file, scans[key])
        records.append(found[0] if len(found) == 1 else {})
        if len(found) > 1:
            unclear.append(file.path.name)
    if unclear:
        notices.append(
            f"{count(len(unclear), 'image')} {'comes' if len(unclear) == 1 else 'come'} from "
            f"several rows of scans.tsv, whose columns are missing there: {join_some(unclear, 5)}."
        )
    return _collect("scans", records, levels)


def _find_scans(
    file: BidsFile, scans: Sequence[tuple[dict[str, str], str, dict[str, str]]]
) -> list[dict[str, str]]:
    """Return what differs of the rows of the files that an image may come from."""
    own = {name: file.entities[name] for name in _RAW if name in file.entities}
    suffixes = ("bold", "cbv", "asl") if "task" in own else (file.suffix, "T1w", "asl", "pet")
    fits = [
        (suffix, record)
        for entities, suffix, record in scans
        if suffix in suffixes and all(entities.get(name) == own[name] for name in own)
    ]
    best = min((suffixes.index(suffix) for suffix, _ in fits), default=0)
    records = [record for suffix, record in fits if suffix == suffixes[best]]
    return [record for i, record in enumerate(records) if record not in records[:i]]
