"""What all interfaces share: the traits of a model and of its maps, and the references."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

from nipype.external.due import BibTeX
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    InputMultiObject,
    LibraryBaseInterface,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from threadpoolctl import threadpool_limits

from nipype_blm.core.lmm.estimates import METHODS
from nipype_blm.errors import InputError, pack_problems, show
from nipype_blm.frontends.contrasts import normalise_contrasts
from nipype_blm.frontends.factors import normalise_factors
from nipype_blm.frontends.traits import WORDS, explain_name
from nipype_blm.io.files import write_if_changed
from nipype_blm.model.request import DEFAULT_MAX_BYTES, DEFICIENT, MATCH_ROWS
from nipype_blm.model.study import COLUMN_KINDS, ON_MISSING
from nipype_blm.results.declared import select_declared
from nipype_blm.stages.assemble import NOTICES, AssembledMaps
from nipype_blm.units import GIB

# What a node leaves beside its result when its input cannot be used.
INPUT_ERROR = "input_error.json"

_BLM_REFERENCE = BibTeX(
    "@misc{blm, author={Maullin-Sapey, Thomas and Nichols, Thomas E.},"
    "title={{BLM}: the Big Linear Models toolbox}, year={2023},"
    "howpublished={https://github.com/TomMaullin/BLM}}"
)
_BLMM_REFERENCE = BibTeX(
    "@article{blmm, author={Maullin-Sapey, Thomas and Nichols, Thomas E.},"
    "title={{BLMM}: Parallelised computing for big linear mixed models},"
    "journal={NeuroImage}, volume={264}, pages={119729}, year={2022},"
    "doi={10.1016/j.neuroimage.2022.119729}}"
)


def _telling_faults(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Have an interface tell what is wrong with its input in the names of its traits.

    In the folder of a node it is left as a file, too, for whoever has other words for it.
    """

    @wraps(run)
    def tell(interface: "BLMInterface", runtime: Any) -> Any:
        try:
            return run(interface, runtime)
        except InputError as error:
            if interface._report is not None:
                write_if_changed(interface._report, pack_problems(error.problems))
            error.reword(WORDS)
            raise

    return tell


class BLMInterface(LibraryBaseInterface, SimpleInterface):
    """Base of all interfaces: version, references, one BLAS thread, faults, lost outputs."""

    _pkg = "nipype_blm"
    _report: Path | None = None  # where faults are left, in a folder of its own
    _references: ClassVar = [
        {"entry": _BLM_REFERENCE, "description": "Big Linear Models", "tags": ["method"]},
        {"entry": _BLMM_REFERENCE, "description": "Products of batches", "tags": ["method"]},
    ]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_run_interface" in vars(cls):
            cls._run_interface = _telling_faults(cls._run_interface)

    def run(self, cwd: str | Path | None = None, **options: Any) -> Any:
        """Run with one BLAS thread: more of them only compete with the threads of ours."""
        self._report = None if cwd is None else Path(cwd, INPUT_ERROR)
        if self._report is not None:
            self._report.unlink(missing_ok=True)
        with threadpool_limits(1):
            return super().run(cwd=cwd, **options)

    def _list_outputs(self) -> dict[str, Any]:
        # Nipype asks an interface that has not run when a cached output is gone; the error
        # makes it run the node again instead of handing on nothing.
        if not self._results:
            raise FileNotFoundError(f"An output of {type(self).__name__} is missing.")
        return dict(super()._list_outputs())


# How Nipype's traits call what they expect, and how a message does.
_KINDS = {
    "an integer": "a whole number",
    "a floating point number": "a number",
    "a float": "a number",
    "a boolean": "True or False",
    "a string": "text",
    "a list of items which are": "a list of",
    "a dictionary with keys which are any value and with values which are any value": "mappings",
    "a pathlike object or string representing a file": "a path",
    "a pathlike object or string representing a directory": "a path",
    "a pathlike object or string representing an existing directory": "the path of a folder",
}


_NORMALISE: dict[str, Callable[[Any], Any]] = {  # say what is wrong with an entry
    "contrasts": normalise_contrasts,
    "random_factors": normalise_factors,
}


class InputSpec(BaseInterfaceInputSpec):
    """Inputs that take paths of any kind, and say in one sentence what cannot be used."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an input, as Nipype does."""
        try:
            super().__setattr__(name, _write_paths(value))
        except traits.TraitError as error:
            if name not in self.trait_names():
                raise traits.TraitError(explain_name(name, self.copyable_trait_names())) from error
            raise traits.TraitError(f"{name}: {_explain(name, value, error)}.") from error


def _explain(name: str, value: Any, error: Exception) -> str:
    """Return what was given, and what Nipype's trait, or the model, expects."""
    try:
        _NORMALISE.get(name, id)(value)
    except ValueError as fault:
        return str(fault)
    expected = re.search(r" must be (.*), but a value of ", str(error), re.DOTALL)
    kinds = "|".join(sorted(map(re.escape, _KINDS), key=len, reverse=True))
    what = re.sub(kinds, lambda found: _KINDS[found[0]], expected[1] if expected else "another")
    each = " for each" if str(error).startswith("Each element") else ""
    return f"{show(value)} was given; expected {what}{each}"


def _write_paths(value: Any) -> Any:
    """Return a path, or those of a list, as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple) and any(isinstance(each, os.PathLike) for each in value):
        return [_write_paths(each) for each in value]
    return value


def _permission(desc: str) -> Any:
    """Return a trait that is false unless given, and changes no map."""
    return traits.Bool(False, usedefault=True, nohash=True, desc=desc)


def overwrite_trait() -> Any:
    """Return the trait of all interfaces that write maps."""
    return _permission("replace the maps of another model that another node wrote to out_dir")


def allow_empty_trait() -> Any:
    """Return the trait of the interfaces that make the maps of a model."""
    return _permission(
        "accept a result without any voxel; otherwise it is an error, and the maps stay"
    )


def threads_trait() -> Any:
    """Return the trait of all interfaces that compute."""
    return traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads to use")


def memory_trait() -> Any:
    """Return the trait of all interfaces that cut their work to the memory that there is."""
    return traits.Range(
        low=0.0,
        value=DEFAULT_MAX_BYTES / GIB,
        usedefault=True,
        nohash=True,
        desc="memory to use, in GiB",
    )


def results_trait() -> Any:
    """Return the trait of all interfaces that go on from the results of a model."""
    return Directory(exists=True, mandatory=True, desc="out_dir of a model: results of blm or blmm")


class ModelInputSpec(InputSpec):
    """What the traits of all models share."""

    in_files = InputMultiObject(
        traits.Str,
        desc="images, one for each row of the design; or one 4D image; or one text file that lists "
        "images; with a table, images whose names say to which row they belong",
    )
    design_file = File(desc="design matrix: CSV, TSV or whitespace table")
    contrasts = traits.Either(
        traits.List(traits.Either(traits.Dict, traits.Str)),
        traits.Dict,
        traits.Str,
        desc="contrasts: a list of mappings with name and vector (a row for T, rows for F), or a "
        ".con of FSL; with a formula, or a design with names of columns, expressions such as age "
        "or sex[M] - sex[F]",
    )
    f_contrasts = File(desc="a .fts of FSL: F contrasts that combine rows of the .con in contrasts")
    formula = traits.Str(
        desc="model in words of the table, such as ~ age + sex, in place of the design"
    )
    table = File(desc="table of covariates, CSV or TSV: one row for each image")
    images = traits.Str(
        desc="where the image of a row of the table is: a path with names of columns in braces, "
        "or the column that has it"
    )
    columns = traits.Dict(
        traits.Str,
        traits.Enum(*COLUMN_KINDS),
        desc="columns of the table whose kind is not as it looks",
    )
    on_missing = traits.Enum(*ON_MISSING, desc="rows with a missing covariate")
    on_missing_image = traits.Enum(*ON_MISSING, desc="rows without an image")
    row_names = traits.Str(
        desc="header or number of the column of the design that names the rows; none: every "
        "column is a regressor"
    )
    match_rows = traits.Enum(
        *MATCH_ROWS,
        usedefault=True,
        desc="check: names of rows must not contradict those of images; by_name: they sort the "
        "rows; by_order: they are not looked at",
    )
    mask_file = File(desc="analysis mask: inside means finite and not zero")
    data_mask_files = InputMultiObject(
        traits.Str,
        desc="one mask for each image, or a text file of them; with a table, given as images is",
    )
    data_mask_thresh = traits.Float(desc="values below this are missing")
    min_percent = traits.Either(
        traits.Float, traits.Str, desc='least share of the images at a voxel: 0.1 or "10%"'
    )
    min_n = traits.Int(desc="least number of images at a voxel")
    post_mask_file = File(desc="voxels outside this mask leave the result")
    zero_is_missing = traits.Bool(True, usedefault=True, desc="exact zeros are missing")
    deficient = traits.Enum(
        *DEFICIENT,
        usedefault=True,
        desc="if columns of X depend on each other: refuse it, or test what is estimable",
    )
    two_sided = traits.Bool(False, usedefault=True, desc="two-sided p-values of T contrasts")
    minlog = traits.Float(desc="infinite -log10 p become |minlog| or -|minlog|")
    output_cov = traits.Bool(True, usedefault=True, desc="write the covariances of beta")
    max_mem_gb = memory_trait()
    images_per_batch = traits.Int(desc="images read by one node; planned if not given")
    voxels_per_block = traits.Int(desc="voxels fitted by one node; planned if not given")
    max_blocks = traits.Int(desc="most voxel blocks, memory permitting")
    minutes_per_job = traits.Float(
        desc="least minutes of one core for a batch and for a block, memory permitting"
    )
    compress = traits.Bool(False, usedefault=True, desc="write .nii.gz instead of .nii")
    overwrite = overwrite_trait()
    allow_empty = allow_empty_trait()


class MixedInputSpec(InputSpec):
    """What a mixed model has besides."""

    random_factors = traits.List(
        traits.Dict,
        desc="random factors, without a formula: a list of mappings with name, factor (a file with "
        "one label for each image) and design (a table of the effects of a level); and, if wished, "
        "correlated and nested_in",
    )
    reml = traits.Bool(True, usedefault=True, desc="restricted maximum likelihood")
    method = traits.Enum(
        *METHODS, usedefault=True, desc="exact, or one of the methods of Fisher scoring"
    )
    tol = traits.Float(desc="gain in log-likelihood below which iterations end")
    maxnit = traits.Int(desc="most iterations at a voxel")
    n_starts = traits.Int(desc="starting values tried at a voxel; chosen if not given")
    safe_mode = traits.Bool(
        True, usedefault=True, desc="drop voxels with no more images than random effects"
    )
    resms = traits.Bool(False, usedefault=True, desc="write blmm_vox_resms")


class PoolInputSpec(InputSpec):
    """Where a node that hands out its work does so."""

    pool_file = File(
        xor=["plugin_args"],
        nohash=True,
        desc="file of a running pool (nipype-blm pool start) that does the work",
    )
    plugin_args = traits.Dict(
        xor=["pool_file"],
        nohash=True,
        desc="arguments of DaskPlugin: a pool of workers is started for the work",
    )


def find_plugin_args(given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a pool, of the inputs of `PoolInputSpec`; None: there is none."""
    if "pool_file" in given:
        return {"scheduler_file": Path(given["pool_file"]).absolute()}
    return given.get("plugin_args")


def defined_traits(inputs: Any) -> dict[str, Any]:
    """Return the inputs that have a value."""
    values = {name: getattr(inputs, name) for name in inputs.copyable_trait_names()}
    return {name: value for name, value in values.items() if isdefined(value)}


def warn_of(notices: Sequence[str]) -> None:
    """Log what is no fault but may not be meant."""
    for notice in notices:
        logging.getLogger(NOTICES).warning(notice)


class _ModelOutputSpec(TraitedSpec):
    """The outputs that all models have under the same name."""

    out_dir = Directory(exists=True, desc="folder of all maps and their sidecars")
    mask_file = File(exists=True, desc="voxels in the result")
    contrast_metadata = traits.List(traits.Dict, desc="name, label and type of each contrast")
    dof = traits.Int(
        desc="error degrees of freedom: the median of the voxels, rounded down; of several "
        "contrasts the smallest"
    )
    notices = traits.List(traits.Str, desc="what to know of the result, such as suspicious zeros")


def _make_output_spec(name: str, model: str, words: str) -> type[TraitedSpec]:
    """Return the outputs of a model: those that all have, and each map that it declares."""
    maps = {
        each.name_file(model): File(exists=True, desc=each.describe(model))
        for each in select_declared(model)
    }
    # Nipype's OutputMultiObject would hand on a list of one map as a bare name.
    lists = {
        each.output[0]: traits.List(File(exists=True), desc=each.output[1])
        for each in select_declared("blmm", of_contrast=True)
    }
    own: dict[str, Any] = {"__module__": __name__, "__doc__": words}
    return type(name, (_ModelOutputSpec,), own | lists | maps)


MapsOutputSpec = _make_output_spec("MapsOutputSpec", "blm", "The maps of a Big Linear Model.")
MixedMapsOutputSpec = _make_output_spec(
    "MixedMapsOutputSpec", "blmm", "The maps of a Big Linear Mixed Model."
)


# Every output; a builder connects them all.
MAP_OUTPUTS = tuple(MapsOutputSpec().copyable_trait_names())
MIXED_MAP_OUTPUTS = tuple(MixedMapsOutputSpec().copyable_trait_names())


def maps_as_outputs(maps: AssembledMaps, out_dir: Path) -> dict[str, Any]:
    """Return the outputs of `MapsOutputSpec` or `MixedMapsOutputSpec`, each with its path."""
    output_of = {each.name: each.output[0] for each in select_declared("blmm", of_contrast=True)}
    results: dict[str, Any] = {name: str(path) for name, path in maps.files.items()}
    for kind, paths in maps.contrast_maps.items():
        results[output_of[kind]] = [str(path) for path in paths]
    return results | {
        "out_dir": str(out_dir),
        "mask_file": str(maps.mask_file),
        "contrast_metadata": maps.contrast_metadata,
        "contrast_masks": [str(path) for path in maps.contrast_masks],
        "dof": maps.dof,
        "notices": maps.notices,
    }
