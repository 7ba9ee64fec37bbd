"""The images of a BIDS data set, with what its tables say of each, as a table for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import Directory, File, InputMultiObject, TraitedSpec, traits

from nipype_blm.errors import InputError
from nipype_blm.interfaces.base import BLMInterface, InputSpec, defined_traits, warn_of
from nipype_blm.model.study import ON_MISSING

if TYPE_CHECKING:
    from nipype_blm.frontends.observations import Observations


class _FindImagesInputSpec(InputSpec):
    bids = Directory(exists=True, mandatory=True, desc="BIDS data set, or its derivatives")
    derivatives = InputMultiObject(
        traits.Str, desc="derivatives with the images, by name or folder; default: all"
    )
    filters = traits.Dict(
        traits.Str, traits.Any, desc="entities that images must have: a label, or a list of some"
    )
    participants = InputMultiObject(
        traits.Str, desc="participants, with or without sub-; default: all"
    )
    on_missing_image = traits.Enum(
        *ON_MISSING, usedefault=True, desc="images that are empty, or not fetched"
    )
    out_file = File(
        desc="table to write; default: images.tsv in the working directory, which Nipype empties "
        "whenever the node runs, so that nodes behind it run again, too"
    )


class _FindImagesOutputSpec(TraitedSpec):
    table = File(
        exists=True,
        desc="a row for each image: its entities, what participants.tsv and the like say, the "
        "column image and, if all have one, the column mask",
    )
    images = traits.List(File(exists=True), desc="the images, in the order of the rows")
    notices = traits.List(traits.Str, desc="what is no fault but may not be meant")


class FindImages(BLMInterface):
    """Find the images of a BIDS data set, and write a table of them.

    `BLM` and `BLMM` take the table.  Runs every time, since Nipype does not look into the data
    set.  With `out_file`, a table that is the same is not written again, and nodes behind it are
    cached.

    Examples
    --------
    >>> from nipype_blm.interfaces import FindImages
    >>> find = FindImages(filters={"contrast": "faces", "stat": "effect"})
    >>> find.inputs.bids = "bids"  # doctest: +SKIP
    >>> table = find.run().outputs.table  # doctest: +SKIP
    """

    input_spec = _FindImagesInputSpec
    output_spec = _FindImagesOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        # Every node of any workflow imports this module; these take their time.
        from nipype_blm.frontends.bids import find_study
        from nipype_blm.io.frames import write_frame

        given = defined_traits(self.inputs)
        found = find_study(
            Path(given["bids"]).absolute(),
            given.get("derivatives"),
            given.get("filters"),
            given.get("participants"),
            own_masks=True,
            on_missing_image=given["on_missing_image"],
        )
        notices = list(map(str, found.notices))
        warn_of(notices)
        table = Path(runtime.cwd, given.get("out_file", "images.tsv")).resolve()
        _check_free(table)
        table.parent.mkdir(parents=True, exist_ok=True)
        write_frame(table, _list_columns(found), found.frame.attrs.get("levels", {}))
        self._results = {
            "table": str(table),
            "images": [str(each.path) for each in found.images],
            "notices": notices,
        }
        return runtime


def _check_free(table: Path) -> None:
    """Refuse to replace what is no table of images, such as the covariates of a study."""
    if not (table.exists() or table.with_suffix(".json").exists()):
        return
    header = ""
    if table.is_file():
        with table.open(encoding="utf-8", errors="replace") as file:
            header = file.readline(100_000)
    if "image" not in header.rstrip("\n").split("\t"):
        raise InputError(
            f"out_file {table} would replace a file, there or as .json beside it, that is no "
            "table of images; give another name."
        )


def _list_columns(found: "Observations") -> dict[str, list[Any]]:
    """Return the columns of the table, with the paths of images and, if all have one, of masks."""
    columns = {str(name): found.frame[name].tolist() for name in found.frame.columns}
    columns["image"] = [each.path for each in found.images]
    if found.data_masks is not None and None not in found.data_masks:
        columns["mask"] = [each.path for each in found.data_masks if each is not None]
    return columns
