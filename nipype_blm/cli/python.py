"""`nipype_blm.fit`: a formula and a table, from Python."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from nipype_blm.errors import InputError, Problem, Words, show
from nipype_blm.frontends import blm
from nipype_blm.frontends.fields import FormulaFields, check_fields
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.studies import make_formula_request
from nipype_blm.frontends.values import is_mixed_formula
from nipype_blm.io.frames import name_columns, write_frame

if TYPE_CHECKING:
    from pandas import DataFrame

    from nipype_blm.model.request import Request
    from nipype_blm.report.notebook import Results

_TABLE = "inputs_table.tsv"  # beside inputs.yml, of a table that is in no file
_MASK = "data mask"  # the column of masks that is added there


# Of those who call `fit`.
WORDS = Words({"pattern": "images", "analysis_mask": "mask"})


def fit(
    formula: str,
    table: "DataFrame | Path | str | None" = None,
    images: Sequence[Path | str] | str | None = None,
    *,
    out_dir: Path | str,
    contrasts: Sequence[Any] | str | None = None,
    bids: Path | str | None = None,
    mask: Path | str | None = None,
    plugin: str | None = None,
    plugin_args: Path | str | None = None,
    pool: Path | str | None = None,
    quiet: bool = False,
    **fields: Any,
) -> "Results":
    """Fit a linear or mixed model of a table at every voxel of its images.

    Parameters
    ----------
    formula : str
        Such as ``"~ age + sex"``; with ``( | )`` a mixed model, such as
        ``"~ age + (1 | subject)"``.
    table : DataFrame or path, optional
        One row for each image.
    images : str or sequence of paths, optional
        Where the image of a row is: a path with names of columns in braces, such as
        ``"maps/{participant_id}.nii.gz"``, or the column that has it; default: ``image``.  Or a
        list, whose names say to which row they belong: the order says nothing.
    out_dir : path
        Folder for the results.
    contrasts : sequence of str or dict, optional
        Expressions such as ``"age"`` or ``"sex[M] - sex[F]"``; or mappings with ``name``, and
        ``expression`` or ``vector``.  Default: the effect of each term.
    bids : path, optional
        BIDS data set, in place of table and images; ``filters`` and ``derivatives`` choose its
        images.
    mask : path, optional
        Mask of the analysis.
    plugin, plugin_args, pool : optional
        What runs the nodes, as for the command ``nipype-blm fit``.
    quiet : bool
        Print no progress and no summary.
    **fields
        Further fields of a configuration, by the names of `nipype_blm.frontends.fields`, such as
        ``on_missing="drop"``, ``min_n=10`` or ``two_sided=True``.

    Returns
    -------
    Results
        The maps, and the model as fitted.

    Raises
    ------
    InputError
        If something cannot be used, with all faults together, before anything is fitted.
    RuntimeError
        If the run fails.

    Examples
    --------
    >>> import nipype_blm
    >>> results = nipype_blm.fit(
    ...     "~ age + (1 | subject)", "visits.tsv", "maps/{subject}_{visit}.nii.gz", out_dir="age"
    ... )  # doctest: +SKIP
    >>> results.contrasts["age"].image("z")  # doctest: +SKIP
    """
    from nipype_blm.cli.fit import run_request
    from nipype_blm.report.notebook import Results

    request, levels = _make_request(
        formula,
        table,
        images,
        fields | {"out_dir": out_dir, "contrasts": contrasts, "bids": bids, "analysis_mask": mask},
    )
    arguments = argparse.Namespace(
        check=False,
        graph=None,
        clean=False,
        quiet=quiet,
        report=None,
        reports=False,
        plugin="Dask" if pool is not None else plugin,
        plugin_args=None if plugin_args is None else Path(plugin_args),
        pool=None if pool is None else Path(pool).expanduser().absolute(),
    )
    with threadpool_limits(1):  # threads of NumPy would only compete with ours
        run_request(request, arguments)
    results = Results(request.out_dir)
    if request.record.get("table") == _TABLE:
        assert results.study is not None
        _write_copy(request, results.study.columns, levels)
    return results


def _make_request(
    formula: str,
    table: "DataFrame | Path | str | None",
    images: Sequence[Path | str] | str | None,
    fields: dict[str, Any],
) -> "tuple[Request, Mapping[str, Sequence[str]]]":
    """Make a request of what `fit` is given; the record of a table in memory names its copy.

    Returns
    -------
    request : Request
    levels : mapping of str to sequence of str
        The categories of the columns of a table in memory, in their order.
    """
    listed = None
    if images is not None and not isinstance(images, str | Path):
        listed = _list_paths(images)
    is_file = table is None or isinstance(table, str | Path)
    frame = None if is_file else _take_frame(table)
    levels = {} if frame is None else frame.attrs["levels"]
    kinds = fields.get("columns") or {}
    if isinstance(kinds, Mapping):  # else the check says what is wrong
        kinds = dict.fromkeys(levels, "categorical") | dict(kinds)
    given = {
        "formula": formula,
        "table": table if is_file else Path.cwd() / _TABLE,  # which the record names
        "images": listed,
        "pattern": None if listed is not None else images,
        **fields,
        "columns": kinds,
    }
    model = "blmm" if is_mixed_formula(formula) else "blm"
    checked = check_fields(given, model, WORDS)
    assert isinstance(checked.fields, FormulaFields)
    record = blm.to_yaml(checked.fields)
    request = make_formula_request(
        checked.fields, Origin(model, WORDS, checked.problems, record=record), frame
    )
    if frame is not None and request.study is not None:
        request = replace(request, record=_name_copy(request))
    return request, levels


def _list_paths(images: Any) -> list[Path]:
    try:
        return [Path(each).absolute() for each in images]
    except TypeError as error:
        raise InputError(
            Problem(
                "images",
                "{images} is {given}; expected a list of paths, or text: a column, or a pattern "
                "with columns in braces.",
                given=show(images),
            )
        ) from error


def _name_copy(request: "Request") -> dict[str, Any]:
    """Return a record that finds all it needs in the copy of the table."""
    assert request.study is not None
    record = dict(request.record) | {"table": _TABLE, "images": "image"}
    kinds = record.pop("columns", None) or {}
    if known := {name: kind for name, kind in kinds.items() if name in request.study.columns}:
        record["columns"] = known
    if request.data_masks is not None:
        record[blm.WORDS.name("data_masks")] = _MASK
    return record


def _write_copy(
    request: "Request", columns: Mapping[str, Sequence[Any]], levels: Mapping[str, Sequence[str]]
) -> None:
    """Write the table that the record names, with the mask of each image, if there are any."""
    masks = {}
    if request.data_masks is not None:
        assert request.images is not None
        pairs = zip(request.images, request.data_masks, strict=True)
        of_images = {str(image.path): mask and mask.path for image, mask in pairs}
        masks[_MASK] = [of_images[image] for image in columns["image"]]
    write_frame(request.out_dir / _TABLE, {**columns, **masks}, levels)


def _take_frame(table: Any) -> "DataFrame":
    """Return a table as one that was read from a file; `attrs` has the levels of its categories.

    Whole numbers, also where missing ones have made floats of them, are written without a point.
    An index that has a name is a column.

    Raises
    ------
    InputError
        If it is no table.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame) or table.columns.nlevels > 1:
        what = "a table with names of columns of several levels"
        raise InputError(
            Problem(
                "table",
                "{table} is {what}; expected a DataFrame, with a name for each column and a row "
                "for each image, or the path of a file.",
                what=what if isinstance(table, pd.DataFrame) else f"of type {type(table).__name__}",
            )
        )
    taken = {str(name) for name in table.columns}
    index = [table.index.get_level_values(i).to_series() for i in range(table.index.nlevels)]
    given = [each for each in index if each.name is not None and str(each.name) not in taken]
    given += [table.iloc[:, i] for i in range(table.shape[1])]
    names, repeated = name_columns([str(each.name) for each in given])
    columns = {
        name: [_write_cell(cell) for cell in each] for name, each in zip(names, given, strict=True)
    }
    frame = pd.DataFrame(
        columns, index=[f"row {i}" for i in range(1, len(table) + 1)], dtype=object
    )
    levels = {
        name: [_write_cell(level) for level in each.cat.categories]
        for name, each in zip(names, given, strict=True)
        if isinstance(each.dtype, pd.CategoricalDtype)
    }
    frame.attrs = {
        "source": "the table",
        "levels": levels,
        "repeated": dict.fromkeys(repeated, "the table"),
    }
    return frame


def _write_cell(value: Any) -> str:
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, float):  # of NumPy, too
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value).strip()
