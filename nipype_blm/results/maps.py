"""Which maps a model has: what each is, and where its values come from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.contrasts import compute_partial_r2
from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.status import VoxelStatus
from nipype_blm.data.maps import MapInfo
from nipype_blm.data.spec import ContrastSpec, ModelSpec
from nipype_blm.model.contrasts import Contrast, file_labels
from nipype_blm.results.blocks import Block

# What each map of the whole run holds, and its NIfTI intent.
_LEAST_SQUARES = {
    "mask": ("Voxels in the result.", "label"),
    "status": ("What happened at each voxel.", "label"),
    "n": ("Images with data at each voxel of the analysis mask.", "none"),
    "edf": ("Residual degrees of freedom.", "none"),
    "beta": (
        "Estimates, one volume for each column of X; 0 where it is not estimable by itself.",
        "estimate",
    ),
    "resms": ("Residual mean square.", "estimate"),
    "llh": ("Maximised log-likelihood.", "estimate"),
    "cov": ("Covariances of the estimates, row by row.", "estimate"),
    "con": ("Effects of the T contrasts.", "estimate"),
    "conSE": ("Standard errors of the T contrasts.", "estimate"),
    "conT": ("T statistics; degrees of freedom in blm_vox_edf.", "t test"),
    "conTlp": ("-log10 of the uncorrected p of T.", "log10 p value"),
    "conF": ("F statistics; error degrees of freedom in blm_vox_edf.", "f test"),
    "conFlp": ("-log10 of the uncorrected p of F.", "log10 p value"),
    "conR2": ("Partial R2 of the F contrasts.", "estimate"),
}
_MIXED = _LEAST_SQUARES | {
    "edf": ("Images with data less the rank of their rows of X.", "none"),
    "sigma2": ("Residual variance.", "estimate"),
    "D": ("Covariances of the random effects of a level, relative to sigma2.", "estimate"),
    "varcomp": ("Covariances of the random effects of a level: sigma2 times D.", "estimate"),
    "icc": ("Share of each factor in the variance of intercepts and residuals.", "estimate"),
    "resms": ("Mean square of y - X beta, over n less the rank of X.", "estimate"),
    "llh": ("Maximised log-likelihood, by the criterion named below.", "estimate"),
    "nit": ("Evaluations of the likelihood.", "none"),
    "conT": ("T statistics; degrees of freedom in blmm_vox_conT_swedf.", "t test"),
    "conT_swedf": ("Satterthwaite's degrees of freedom of T.", "none"),
    "conF": ("F statistics; error degrees of freedom in blmm_vox_conF_swedf.", "f test"),
    "conF_swedf": ("Satterthwaite's error degrees of freedom of F.", "none"),
}
MAPS = {"blm": _LEAST_SQUARES, "blmm": _MIXED}  # by the model

_ESTIMABLE = "_desc-estimable_mask"

Volume = Callable[[Block], NDArray[Any]]  # the values of one volume at a block
ContrastVolume = Callable[[int, Block], NDArray[Any]]  # ... of contrast number i


class DofRange(NamedTuple):
    """Error degrees of freedom of a contrast over the voxels of the mask."""

    minimum: float
    median: float  # which stands in the header
    maximum: float

    def describe(self) -> dict[str, Any]:
        """Return what sidecars say of it."""
        numbers = {name.capitalize(): value for name, value in self._asdict().items()}
        return numbers | {
            "Description": "Of the voxels in the mask.  The header has the median, as parameter "
            "of its intent: it is not the number of each voxel.  To threshold, take z or p."
        }


@dataclass(frozen=True)
class Map:
    """One map file."""

    info: MapInfo
    volumes: Sequence[Volume]
    dtype: str
    everywhere: bool = False  # values at all voxels of the analysis mask, not the fitted
    # Volumes that are nothing but rounding errors where they are small.
    covariances: frozenset[int] = frozenset()

    def assemble(self, blocks: Sequence[Block], n_voxels: int) -> Iterator[NDArray[Any]]:
        """Yield the volumes over the analysis mask, 0 where there is no value.

        Raises
        ------
        OverflowError
            If values are too large or too small for single precision.
        """
        for number, volume in enumerate(self.volumes):
            has_units = self.info.intent == "estimate" and number not in self.covariances
            vector = np.zeros(n_voxels, self.dtype)
            for block in blocks:
                values = volume(block)
                if self.dtype == "float32" and not _fits_single(values, has_units):
                    raise OverflowError(f"{self.info.name} does not fit into single precision.")
                vector[block.voxels if self.everywhere else block.fitted] = values
            yield vector


def _fits_single(values: NDArray[Any], has_units: bool) -> bool:
    """Return whether values keep their digits, where they are not far below the largest one.

    Small ones without units, such as p-values, may well become 0.
    """
    limits = np.finfo(np.float32)
    largest = np.abs(values).max(initial=0)
    is_small = 0 < largest < limits.tiny / limits.eps
    return bool(largest <= limits.max) and not (has_units and is_small)


def list_maps(
    spec: ModelSpec,
    tests: ContrastSpec,
    dof: Sequence[DofRange],
    has_gaps: Sequence[bool],
    notices: Sequence[str] = (),
) -> list[Map]:
    """Return all maps of a run.

    Parameters
    ----------
    dof : sequence of DofRange
        Of each contrast.
    has_gaps : sequence of bool
        Whether each contrast is not estimable at some fitted voxel.
    notices : sequence of str
        What the user should know, for the sidecar of the map of n.
    """
    maps = [*_voxel_maps(spec, notices), *_estimate_maps(spec)]
    if spec.options is not None:
        maps += _variance_maps(spec)
    maps += _stacked_maps(spec, tests, dof)
    for number, label in enumerate(file_labels(tests.contrasts)):
        maps += _maps_of_contrast(spec, tests, number, label, dof[number])
        if has_gaps[number]:
            maps.append(_estimable_mask(tests.contrasts[number], number, label))
    return maps


def is_map_name(name: str, model: str) -> bool:
    """Return whether a file, relative to the output folder, could be a map of the model."""
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if extension not in ("nii", "nii.gz", "json"):
        return False
    if folder == "contrasts":
        return stem.startswith("contrast-") and stem.endswith(("_statmap", _ESTIMABLE))
    return folder == "" and stem in {f"{model}_vox_{name}" for name in MAPS[model]}


def contrast_map_name(label: str, kind: str, contrast: Contrast) -> str:
    """Return the BIDS-like name of the map of one contrast."""
    stat = {"stat": "F" if contrast.is_f else "t"}.get(kind, kind)
    return f"contrasts/contrast-{label}_stat-{stat}_statmap"


def estimable_mask_name(label: str) -> str:
    """Return the name of the mask of the voxels at which a contrast is estimable."""
    return f"contrasts/contrast-{label}{_ESTIMABLE}"


def _estimable_mask(contrast: Contrast, number: int, label: str) -> Map:
    """Return the mask of a contrast that is not estimable at all voxels of the result."""
    text = f"Voxels at which the contrast is estimable: {contrast.name}"
    details = {"Contrast": describe_contrast(contrast)}
    info = MapInfo(estimable_mask_name(label), text, "label", details=details)
    return Map(info, [partial(Block.is_estimable, contrast=number)], "uint8")


def _where_estimable(contrast: int, volume: Volume) -> Volume:
    """Return a volume of a contrast that is 0 where the contrast is not estimable."""

    def masked(block: Block) -> NDArray[Any]:
        values = volume(block)
        return np.where(block.is_estimable(contrast), values, values.dtype.type(0))

    return masked


def _info(
    spec: ModelSpec, name: str, volumes: tuple[str, ...] | None = None, **details: Any
) -> MapInfo:
    description, intent = MAPS[spec.model][name]
    name = f"{spec.model}_vox_{name}"
    return MapInfo(name, description, intent, volumes=volumes, details=details)


def _voxel_maps(spec: ModelSpec, notices: Sequence[str]) -> list[Map]:
    """Return the maps of whole numbers that tell how each voxel was treated."""
    info = partial(_info, spec)
    n = info("n")
    if notices:
        n = n._replace(details={"Notices": list(notices)})
    levels = {str(int(status)): status.meaning for status in VoxelStatus}
    return [
        Map(info("mask"), [lambda b: np.ones(b.fitted.size, np.uint8)], "uint8"),
        Map(info("status", Levels=levels), [lambda b: b.status], "uint8", everywhere=True),
        Map(n, [lambda b: b.n_obs], "int32", everywhere=True),
        Map(info("edf"), [lambda b: b.dof], "int32"),
    ]


def _rows(name: str, numbers: Sequence[int | None]) -> list[Volume]:
    """Return rows of an estimate as volumes; None stands for the whole of it."""
    return [partial(Block.estimate, name=name, row=row) for row in numbers]


def _estimate_maps(spec: ModelSpec) -> list[Map]:
    """Return the maps of estimates that do not depend on contrasts."""
    p, names, dtype = spec.n_params, spec.names, spec.map_dtype
    info = partial(_info, spec)
    criterion = "REML" if spec.options is not None and spec.options.reml else "ML"
    coefficients = [partial(Block.coefficient, row=row) for row in range(p)]
    maps = [Map(info("beta", names), coefficients, dtype)]
    if spec.with_resms:
        maps.append(Map(info("resms"), _rows("resms", [None]), dtype))
    maps.append(Map(info("llh", Criterion=criterion), _rows("llh", [None]), dtype))
    if spec.with_cov:
        pairs = [(max(i, j), min(i, j)) for i in range(p) for j in range(p)]
        packed = [high * (high + 1) // 2 + low for high, low in pairs]
        labels = tuple(f"{a} x {b}" for a in names for b in names)
        cov = Map(info("cov", labels), _rows("cov", packed), dtype, covariances=_off_diagonal(p))
        maps.append(cov)
    return maps


def _off_diagonal(n: int) -> frozenset[int]:
    """Return the numbers of the entries of an n x n matrix, row by row, off its diagonal."""
    return frozenset(range(n * n)) - frozenset(range(0, n * n, n + 1))


def _variance_maps(spec: ModelSpec) -> list[Map]:
    """Return the maps of the random effects."""
    labels = tuple(chain.from_iterable(map(_label_vech, spec.factors, spec.effect_names)))
    info, dtype = partial(_info, spec), spec.map_dtype

    def variance(row: int, block: Block) -> FloatArray:
        return block.estimate("sigma2") * block.estimate("D", row)

    maps = [
        Map(info("sigma2"), _rows("sigma2", [None]), dtype),
        Map(info("D", labels), _rows("D", range(len(labels))), dtype),
        Map(info("varcomp", labels), [partial(variance, i) for i in range(len(labels))], dtype),
        Map(info("nit"), _rows("nit", [None]), "int32"),
    ]
    intercepts = find_intercepts(spec.factors)

    def share(name: str, block: Block) -> FloatArray:
        variances = {k: c**2 * block.estimate("D", row) for k, (row, c) in intercepts.items()}
        return np.asarray(variances[name] / (1 + sum(variances.values())))

    if intercepts:
        volumes = [partial(share, name) for name in intercepts]
        maps.append(Map(info("icc", tuple(intercepts)), volumes, dtype))
    return maps


def _label_vech(factor: RandomFactor, effects: Sequence[str]) -> list[str]:
    """Return a label for each entry of vech(D), column by column."""
    return [
        f"{factor.name}: {one}" if one is other else f"{factor.name}: {one} x {other}"
        for i, one in enumerate(effects)
        for other in effects[i:]
    ]


def find_intercepts(factors: Sequence[RandomFactor]) -> dict[str, tuple[int, float]]:
    """Return, for each factor with a constant effect, its row of D and its value in Z."""
    found, offset = {}, 0
    for factor in factors:
        q = factor.n_effects
        for effect, column in enumerate(factor.Z.T):
            if column[0] != 0 and (column == column[0]).all():
                row = offset + effect * q - effect * (effect - 1) // 2  # of vech, the diagonal
                found[factor.name] = (row, float(column[0]))
        offset += factor.n_entries
    return found


def _stacked_maps(spec: ModelSpec, tests: ContrastSpec, dof: Sequence[DofRange]) -> list[Map]:
    """Return BLM's 4D maps, one volume for each T (or each F) contrast."""
    stack = partial(_stack, spec, tests, dof)

    def log10_p(i: int, block: Block) -> FloatArray:
        return _replace_infinite(block.statistic(i, "log_p") / -np.log(10), tests.minlog)

    def partial_r2(i: int, block: Block) -> FloatArray:
        q = len(tests.contrasts[i].matrix)
        return compute_partial_r2(block.statistic(i, "stat"), q, block.contrast_dof(i))

    def contrast_dof(i: int, block: Block) -> NDArray[Any]:
        return block.contrast_dof(i)

    maps = [
        *stack("con", _effect),
        *stack("conSE", _standard_error),
        *stack("conT", _stat),
        *stack("conTlp", log10_p, Tail="two-sided" if tests.two_sided else "upper"),
        *stack("conF", _stat),
        *stack("conFlp", log10_p, Tail="upper"),
        *stack("conR2", partial_r2),
    ]
    if spec.options is not None:
        maps += [*stack("conT_swedf", contrast_dof), *stack("conF_swedf", contrast_dof)]
    return maps


def _effect(i: int, block: Block) -> FloatArray:
    return block.statistic(i, "effect", 0)


def _standard_error(i: int, block: Block) -> FloatArray:
    return np.sqrt(block.statistic(i, "variance", 0))


def _stat(i: int, block: Block) -> FloatArray:
    return block.statistic(i, "stat")


def _stack(
    spec: ModelSpec,
    tests: ContrastSpec,
    dof: Sequence[DofRange],
    name: str,
    volume: ContrastVolume,
    **details: Any,
) -> list[Map]:
    """Return the map of one quantity of all T, or of all F contrasts; none without any.

    A header has room for one number: the smallest of the contrasts' median degrees of freedom.
    """
    is_f = name.startswith(("conF", "conR2"))
    chosen = [i for i, contrast in enumerate(tests.contrasts) if contrast.is_f == is_f]
    if not chosen:
        return []
    names = tuple(tests.contrasts[i].name for i in chosen)
    contrasts = [
        describe_contrast(tests.contrasts[i]) | {"DegreesOfFreedom": dof[i].describe()}
        for i in chosen
    ]
    info = _info(spec, name, names, Contrasts=contrasts, **details)
    smallest = float(min(dof[i].median for i in chosen))
    if name == "conT":
        info = info._replace(intent_parameters=(smallest,))
    elif name == "conF":
        q = len(tests.contrasts[chosen[0]].matrix)
        info = info._replace(intent_parameters=(float(q), smallest))
    volumes = [_where_estimable(i, partial(volume, i)) for i in chosen]
    return [Map(info, volumes, spec.map_dtype)]


def _replace_infinite(values: FloatArray, minlog: float) -> FloatArray:
    """Return values with +-infinity replaced by +-|minlog|."""
    return np.where(np.isinf(values), np.copysign(minlog, values), values)


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Return what the sidecars of a contrast say of it."""
    weights = contrast.matrix.tolist()
    return {
        "Name": contrast.name,
        "Test": "F" if contrast.is_f else "T",
        "Weights": weights if contrast.is_f else weights[0],
    }


def _maps_of_contrast(
    spec: ModelSpec, tests: ContrastSpec, number: int, label: str, dof: DofRange
) -> list[Map]:
    """Return the maps of one contrast by itself, as FSL, SPM and nilearn nodes take them."""
    contrast = tests.contrasts[number]
    q = len(contrast.matrix)
    rows = tuple(f"row {i + 1}" for i in range(q)) if contrast.is_f else None
    pairs = tuple(f"rows {i + 1}, {j + 1}" for i in range(q) for j in range(q))
    test, intent = ("F", "f test") if contrast.is_f else ("T", "t test")
    median = float(dof.median)
    parameters = (float(q), median) if contrast.is_f else (median,)
    tail = "two-sided" if tests.two_sided and not contrast.is_f else "upper tail"
    details = {"Contrast": describe_contrast(contrast), "DegreesOfFreedom": dof.describe()}

    def volume(name: str, row: int | None = None) -> Volume:
        return partial(Block.statistic, contrast=number, name=name, row=row)

    def p_value(block: Block) -> FloatArray:
        return np.exp(block.statistic(number, "log_p"))

    def add(
        kind: str,
        description: str,
        intent: str,
        volumes: Sequence[Volume],
        labels: tuple[str, ...] | None = None,
        parameters: tuple[float, ...] = (),
        covariances: frozenset[int] = frozenset(),
    ) -> Map:
        name = contrast_map_name(label, kind, contrast)
        text = f"{description}: {contrast.name}"
        info = MapInfo(name, text, intent, parameters, labels, details)
        masked = [_where_estimable(number, item) for item in volumes]
        return Map(info, masked, spec.map_dtype, covariances=covariances)

    effects = [volume("effect", i) for i in range(q)]
    variances = [volume("variance", i) for i in range(q * q)]
    variance_labels = pairs if contrast.is_f else None
    df = ",".join(f"{n:g}" for n in parameters)
    maps = [
        add("effect", "Effect", "estimate", effects, rows),
        add(
            "variance",
            "Variance",
            "estimate",
            variances,
            variance_labels,
            covariances=_off_diagonal(q),
        ),
        add("stat", f"{test}_[{df}]", intent, [volume("stat")], parameters=parameters),
        add("z", f"z with the upper tail of {test}", "z score", [volume("z")]),
        add("p", f"Uncorrected p ({tail})", "p value", [p_value]),
    ]
    if spec.options is not None:
        maps.append(add("dof", f"Error degrees of freedom of {test}", "none", [volume("dof")]))
    return maps
