"""What the builders of models take: each parameter, with its type, default and words, once."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from nipype.pipeline.engine import Workflow

from nipype_blm.errors import InputError
from nipype_blm.frontends.traits import explain_name
from nipype_blm.model.request import DEFAULT_MAX_BYTES
from nipype_blm.units import GIB

P = ParamSpec("P")
ParametersT = TypeVar("ParametersT", bound="Parameters")

INPUTS = (
    *("in_files", "design_file", "contrasts", "f_contrasts", "mask_file", "data_mask_files"),
    *("post_mask_file", "formula", "table", "images"),
)
MIXED_INPUTS = (*INPUTS, "random_factors")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the builders of all models take; None: not given.

    Parameters
    ----------
    out_dir : path, optional
        Folder for the maps; by default they stay in the working directory.
    n_procs : int
        Threads of each node that computes.
    max_mem_gb : float
        Memory that each such node may use, in GiB.
    mem_gb : float, optional
        Memory that each such node asks a scheduler for, in GiB, if less than it may use.
    compress : bool
        Write .nii.gz instead of .nii.
    overwrite : bool
        Replace the maps of another model that another workflow or node wrote to `out_dir`.
    allow_empty : bool
        Accept a result in which no voxel could be fitted; otherwise the node `assemble` fails.
    copy_inputs : bool
        Write the complete configuration, inputs.yml, beside the maps.
    keep : str
        Intermediate files that stay when the maps are there: ``all``, so that a replaced image
        repeats its batch, and of a study that has grown only new images are read; ``contrasts``,
        what new contrasts need, so that any other change reads all images again; or ``tiles``,
        all and the values of the images by voxel, so that another design reads those.
    row_names : str, optional
        Header or number of the column of the design that names the rows; ``none``: every column
        is a regressor.
    match_rows : str
        ``check``: names of rows must not contradict those of images; ``by_name``: they sort the
        rows; ``by_order``: they are not looked at.
    data_mask_thresh : float, optional
        Values below this are missing, in the units of the images.
    min_percent : float or str, optional
        Least share of the images at a voxel: 0.1 or ``"10%"``.
    min_n : int, optional
        Least number of images at a voxel.
    zero_is_missing : bool
        Exact zeros are missing.
    deficient : str
        If columns of X depend on each other: ``refuse`` it, or test what is ``estimable``.
    two_sided : bool
        Two-sided p-values of T contrasts.
    minlog : float, optional
        Infinite -log10 p become |minlog| or -|minlog|.
    output_cov : bool
        Write the covariances of beta.
    images_per_batch, voxels_per_block : int, optional
        Images read, and voxels fitted, by one node; planned if not given.
    max_blocks : int, optional
        Most voxel blocks, memory permitting.
    minutes_per_job : float, optional
        Least minutes of one core for a batch and for a block, memory permitting.
    parallel_nodes : int, optional
        Nodes that run at the same time; there are as many batches and blocks, if each has work
        for some seconds.
    columns : dict, optional
        With a formula: columns of the table whose kind is not as it looks, ``categorical`` or
        ``numeric``.
    on_missing, on_missing_image : str, optional
        With a formula: ``refuse`` rows without a covariate, or an image, or ``drop`` them.
    name : str
        Name of the workflow.
    """

    out_dir: str | Path | None = None
    n_procs: int = 1
    max_mem_gb: float = DEFAULT_MAX_BYTES / GIB
    mem_gb: float | None = None
    compress: bool = False
    overwrite: bool = False
    allow_empty: bool = False
    copy_inputs: bool = True
    keep: str = "all"
    row_names: str | None = None
    match_rows: str = "check"
    data_mask_thresh: float | None = None
    min_percent: float | str | None = None
    min_n: int | None = None
    zero_is_missing: bool = True
    deficient: str = "refuse"
    two_sided: bool = False
    minlog: float | None = None
    output_cov: bool = True
    images_per_batch: int | None = None
    voxels_per_block: int | None = None
    max_blocks: int | None = None
    minutes_per_job: float | None = None
    parallel_nodes: int | None = None
    columns: dict[str, str] | None = None
    on_missing: str | None = None
    on_missing_image: str | None = None
    name: str = "blm_wf"


@dataclass(frozen=True, kw_only=True)
class MixedParameters(Parameters):
    """What the builder of a mixed model takes besides.

    Parameters
    ----------
    reml : bool
        Restricted maximum likelihood.
    method : str
        ``exact``, or a method of Fisher scoring: ``pSFS``, ``SFS``, ``pFS``, ``FS``.
    tol : float, optional
        Gain in log-likelihood below which iterations end.
    maxnit : int, optional
        Most iterations at a voxel.
    n_starts : int, optional
        Starting values tried at a voxel; chosen if not given.
    safe_mode : bool
        Drop voxels with no more images than random effects.
    resms : bool
        Write blmm_vox_resms.
    """

    reml: bool = True
    method: str = "exact"
    tol: float | None = None
    maxnit: int | None = None
    n_starts: int | None = None
    safe_mode: bool = True
    resms: bool = False
    name: str = "blmm_wf"


def taking(
    parameters: Callable[P, ParametersT], inputs: Sequence[str]
) -> Callable[[Callable[[ParametersT], Workflow]], Callable[P, Workflow]]:
    """Have a builder take the fields of `Parameters` as keywords, and document them.

    A keyword that is not known is an InputError, which tells the nearest one; so is one of the
    `inputs` of the workflow.
    """
    signature = inspect.signature(parameters)

    def decorate(build: Callable[[ParametersT], Workflow]) -> Callable[P, Workflow]:
        @wraps(build)
        def init(*args: P.args, **kwargs: P.kwargs) -> Workflow:
            for name in kwargs:
                if name in inputs:
                    raise InputError(
                        f"{name} is an input of the workflow; set it as inputs.inputnode.{name}."
                    )
                if name not in signature.parameters:
                    raise InputError(explain_name(name, {*signature.parameters, *inputs}))
            return build(parameters(*args, **kwargs))

        init.__signature__ = signature.replace(return_annotation=Workflow)  # type: ignore[attr-defined]
        init.__doc__ = _insert_parameters(build.__doc__ or "", parameters)
        return init

    return decorate


def _insert_parameters(text: str, parameters: Callable[..., Parameters]) -> str:
    """Return a docstring with all parameters in their place, those of every model first."""
    classes = [each for each in inspect.getmro(parameters) if each is not object]  # type: ignore[arg-type]
    texts = [inspect.cleandoc(each.__doc__ or "") for each in reversed(classes)]
    lists = [each.split("----------\n")[1] for each in texts]
    return inspect.cleandoc(text).replace("{parameters}", "\n".join(lists))
