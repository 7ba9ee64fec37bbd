"""What all interfaces share: the traits of a model and of its maps, and the references."""

import difflib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
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
from nipype_blm.errors import InputError, shorten, show
from nipype_blm.model.config import (
    DEFICIENT,
    MATCH_ROWS,
    BlmmConfig,
    ConfigT,
    ModelConfig,
    normalise_factors,
    parse_config,
)
from nipype_blm.model.contrasts import normalise_contrasts
from nipype_blm.results.maps import MAPS
from nipype_blm.stages.assemble import NOTICES, AssembledMaps

GIB = 2**30

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


class BLMInterface(LibraryBaseInterface, SimpleInterface):
    """Base of all interfaces: version, references, one BLAS thread, lost outputs."""

    _pkg = "nipype_blm"
    _references: ClassVar = [
        {"entry": _BLM_REFERENCE, "description": "Big Linear Models", "tags": ["method"]},
        {"entry": _BLMM_REFERENCE, "description": "Products of batches", "tags": ["method"]},
    ]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run with one BLAS thread: more of them only compete with the threads of ours."""
        with threadpool_limits(1):
            return super().run(*args, **kwargs)

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


def explain_name(name: str, known: Collection[str]) -> str:
    """Return that a name is not known, and which known one is the nearest.

    Fields of a configuration file are known by their traits.
    """
    fields = FIELD_TRAITS | MISSINGNESS_TRAITS | MIXED_TRAITS | {"MAXMEM": "max_mem_gb"}
    places = {field.lower(): trait for field, trait in fields.items() if trait in known}
    places |= {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower()[:40], places, n=1, cutoff=0)
    return f"{shorten(name)} is no known input; the nearest one is {places[near[0]]}."


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


class ModelInputSpec(InputSpec):
    """What the traits of all models share."""

    in_files = InputMultiObject(
        traits.Str,
        mandatory=True,
        desc="images, one for each row of the design; or one 4D image; "
        "or one text file that lists images",
    )
    design_file = File(mandatory=True, desc="design matrix: CSV, TSV or whitespace table")
    contrasts = traits.Either(
        traits.List(traits.Dict),
        traits.Dict,
        mandatory=True,
        desc="contrasts: a list of mappings with name and vector (a row for T, rows for F)",
    )
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
        traits.Str, desc="one mask for each image, or a text file of them"
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
    max_mem_gb = traits.Range(
        low=0.0, value=4.0, usedefault=True, nohash=True, desc="memory to use, in GiB"
    )
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
        mandatory=True,
        desc="random factors: a list of mappings with name, factor (a file with one label for each "
        "image) and design (a table of the effects of a level); and, if wished, correlated and "
        "nested_in",
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


# The trait of each field of a configuration file.
FIELD_TRAITS = {
    "Y_files": "in_files",
    "X": "design_file",
    "contrasts": "contrasts",
    "row_names": "row_names",
    "match_rows": "match_rows",
    "analysis_mask": "mask_file",
    "data_mask_files": "data_mask_files",
    "data_mask_thresh": "data_mask_thresh",
    "zero_is_missing": "zero_is_missing",
    "deficient": "deficient",
    "two_sided": "two_sided",
    "minlog": "minlog",
    "OutputCovB": "output_cov",
    "images_per_batch": "images_per_batch",
    "voxels_per_block": "voxels_per_block",
    "maxnvb": "max_blocks",
    "minutes_per_job": "minutes_per_job",
    "compress": "compress",
    "overwrite": "overwrite",
    "allow_empty": "allow_empty",
}
MISSINGNESS_TRAITS = {"MinPercent": "min_percent", "MinN": "min_n", "Masking": "post_mask_file"}
MIXED_TRAITS = {
    "Z": "random_factors",
    "reml": "reml",
    "method": "method",
    "tol": "tol",
    "maxnit": "maxnit",
    "n_starts": "n_starts",
    "safeMode": "safe_mode",
    "resms": "resms",
}
# What messages call a field; X and Z are also the names of matrices, and stay.
_TRAITS_IN_MESSAGES = {
    "MAXMEM": "max_mem_gb * 2**30",
    **{f"Missingness.{field}": trait for field, trait in MISSINGNESS_TRAITS.items()},
    **{field: trait for field, trait in (FIELD_TRAITS | MIXED_TRAITS).items() if len(field) > 1},
}


@contextmanager
def naming_traits() -> Iterator[None]:
    """Name traits instead of the fields of a configuration file in what is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(map(_name_traits, error.problems)) from error


def warn_of(notices: Sequence[str]) -> None:
    """Log what is no fault but may not be meant, naming traits."""
    for notice in notices:
        logging.getLogger(NOTICES).warning(_name_traits(notice))


def _name_traits(text: str) -> str:
    names = "|".join(map(re.escape, _TRAITS_IN_MESSAGES))
    field = rf"(?<![\w/.-])(?:{names})(?![\w/-]|\.\w)"  # not within a path
    text = re.sub(r"^Z(?=:)", MIXED_TRAITS["Z"], text)  # else the matrix is meant
    return re.sub(field, lambda found: _TRAITS_IN_MESSAGES[found[0]], text)


def _traits_of_fields(model: type[ModelConfig]) -> dict[str, str]:
    return FIELD_TRAITS | MIXED_TRAITS if issubclass(model, BlmmConfig) else FIELD_TRAITS


def config_from_traits(inputs: Any, out_dir: Path, model: type[ConfigT], **options: Any) -> ConfigT:
    """Return the configuration that the traits of a model describe, checked."""

    def value(trait: str) -> Any:
        given = getattr(inputs, trait)
        if isinstance(given, list) and trait.endswith("_files"):
            return given[0] if len(given) == 1 else given
        return given if isdefined(given) else None

    data = {field: value(trait) for field, trait in _traits_of_fields(model).items()}
    missingness = {field: value(trait) for field, trait in MISSINGNESS_TRAITS.items()}
    data["Missingness"] = {k: v for k, v in missingness.items() if v is not None}
    data["MAXMEM"] = inputs.max_mem_gb * GIB
    return parse_config(data | {"outdir": out_dir} | options, model=model)


def _map(name: str, model: str = "blm") -> File:
    return File(exists=True, desc=MAPS[model][name][0])


class _ContrastMapsOutputSpec(TraitedSpec):
    """The outputs that all models have under the same name."""

    out_dir = Directory(exists=True, desc="folder of all maps and their sidecars")
    mask_file = _map("mask")
    contrast_metadata = traits.List(traits.Dict, desc="name, label and type of each contrast")
    # Nipype's OutputMultiObject would hand on a list of one map as a bare name.
    effect_maps = traits.List(
        File(exists=True), desc="effect of each contrast; F: one volume for each row"
    )
    variance_maps = traits.List(
        File(exists=True), desc="variance of each effect; F: covariances, row by row"
    )
    stat_maps = traits.List(File(exists=True), desc="T or F of each contrast")
    zscore_maps = traits.List(
        File(exists=True), desc="normal deviate with the same upper tail, for each contrast"
    )
    pvalue_maps = traits.List(File(exists=True), desc="p of each contrast")
    dof_maps = traits.List(File(exists=True), desc="error degrees of freedom of each contrast")
    contrast_masks = traits.List(
        File(exists=True),
        desc="where each contrast is estimable: mask_file, unless images are missing that it needs",
    )
    dof = traits.Int(
        desc="error degrees of freedom: the median of the voxels, rounded down; of several "
        "contrasts the smallest"
    )
    notices = traits.List(traits.Str, desc="what to know of the result, such as suspicious zeros")


class MapsOutputSpec(_ContrastMapsOutputSpec):
    """The maps of a Big Linear Model."""

    blm_vox_mask = _map("mask")
    blm_vox_status = _map("status")
    blm_vox_n = _map("n")
    blm_vox_edf = _map("edf")
    blm_vox_beta = _map("beta")
    blm_vox_resms = _map("resms")
    blm_vox_llh = _map("llh")
    blm_vox_cov = _map("cov")
    blm_vox_con = _map("con")
    blm_vox_conSE = _map("conSE")
    blm_vox_conT = _map("conT")
    blm_vox_conTlp = _map("conTlp")
    blm_vox_conF = _map("conF")
    blm_vox_conFlp = _map("conFlp")
    blm_vox_conR2 = _map("conR2")


class MixedMapsOutputSpec(_ContrastMapsOutputSpec):
    """The maps of a Big Linear Mixed Model."""

    blmm_vox_mask = _map("mask", "blmm")
    blmm_vox_status = _map("status", "blmm")
    blmm_vox_n = _map("n", "blmm")
    blmm_vox_edf = _map("edf", "blmm")
    blmm_vox_beta = _map("beta", "blmm")
    blmm_vox_sigma2 = _map("sigma2", "blmm")
    blmm_vox_D = _map("D", "blmm")
    blmm_vox_varcomp = _map("varcomp", "blmm")
    blmm_vox_icc = _map("icc", "blmm")
    blmm_vox_resms = _map("resms", "blmm")
    blmm_vox_llh = _map("llh", "blmm")
    blmm_vox_nit = _map("nit", "blmm")
    blmm_vox_cov = _map("cov", "blmm")
    blmm_vox_con = _map("con", "blmm")
    blmm_vox_conSE = _map("conSE", "blmm")
    blmm_vox_conT = _map("conT", "blmm")
    blmm_vox_conT_swedf = _map("conT_swedf", "blmm")
    blmm_vox_conTlp = _map("conTlp", "blmm")
    blmm_vox_conF = _map("conF", "blmm")
    blmm_vox_conF_swedf = _map("conF_swedf", "blmm")
    blmm_vox_conFlp = _map("conFlp", "blmm")
    blmm_vox_conR2 = _map("conR2", "blmm")


# Every output; a builder connects them all.
MAP_OUTPUTS = tuple(MapsOutputSpec().copyable_trait_names())
MIXED_MAP_OUTPUTS = tuple(MixedMapsOutputSpec().copyable_trait_names())


def maps_as_outputs(maps: AssembledMaps, out_dir: Path) -> dict[str, Any]:
    """Return the outputs of `MapsOutputSpec` or `MixedMapsOutputSpec`."""
    traits_of_kinds = {"z": "zscore_maps", "p": "pvalue_maps"}
    results: dict[str, Any] = {name: str(path) for name, path in maps.files.items()}
    for kind, paths in maps.contrast_maps.items():
        results[traits_of_kinds.get(kind, f"{kind}_maps")] = [str(path) for path in paths]
    return results | {
        "out_dir": str(out_dir),
        "mask_file": str(maps.mask_file),
        "contrast_metadata": maps.contrast_metadata,
        "contrast_masks": [str(path) for path in maps.contrast_masks],
        "dof": maps.dof,
        "notices": maps.notices,
    }
