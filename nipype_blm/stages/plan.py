"""Plan a run: read and check everything but the voxels, cut it into batches and blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray, factorise_design
from nipype_blm.data.kinds import name_map, open_space
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import ImageEntry, format_manifest, must_be_read_in_order
from nipype_blm.data.space import Header
from nipype_blm.data.spec import ContrastSpec, ModelSpec
from nipype_blm.data.specfile import pack_contrasts, pack_model, pack_study
from nipype_blm.errors import InputError, Problem, Problems, about
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.publish import Claim, check_claim, has_another_model, is_published
from nipype_blm.io.stamps import batch_stamp, block_stamp, maps_stamp, run_stamp
from nipype_blm.model.contrasts import check_contrasts, check_estimable, check_sizes
from nipype_blm.model.costs import Sizes
from nipype_blm.model.design import check_design, has_possible_sizes
from nipype_blm.model.planning import Plan, can_keep, count_columns_of_rows, plan_run
from nipype_blm.model.random import examine_factors, name_effects, name_levels
from nipype_blm.model.request import Request, Table
from nipype_blm.model.study import Study
from nipype_blm.results.declared import describe_declared
from nipype_blm.results.maps import is_result_name
from nipype_blm.stages.folders import check_disk, check_folders, check_overwriting
from nipype_blm.stages.growth import Earlier, EarlierPlaces, Taken, put_aside
from nipype_blm.stages.images import (
    FoundImages,
    attach_masks,
    find_images,
    fit_image,
    has_compressed,
    list_distinct,
    read_optional_mask,
)
from nipype_blm.stages.notices import Pair, find_notices, list_pairs
from nipype_blm.stages.rows import ModelRows, check_masks, check_rows, name_images, sort_rows
from nipype_blm.stages.tiles import Stored, name_tile, stamp_tile


class Stamps(NamedTuple):
    """The fingerprints of what a run makes."""

    batches: list[str]  # of the products of each
    blocks: list[str]  # of the estimates of each
    run: str  # of the model and the images, without the contrasts


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked and can start; what identifies it is made once."""

    spec: ModelSpec
    contrasts: ContrastSpec
    images: list[ImageEntry]
    plan: Plan
    notices: list[str]  # what is no fault, but may not be meant
    pairs: list[Pair]  # the first and the last images and their rows
    study: Study | None = None  # what a formula made the model of, in the order of the images
    earlier: Earlier | None = None
    # Where each observation stands that a run without an earlier one would have in its place.
    usual_order: NDArray[np.intp] | None = None

    @cached_property
    def packed_model(self) -> tuple[str, bytes]:
        """Fingerprint and content of the file of the model."""
        return pack_model(self.spec)

    @cached_property
    def packed_contrasts(self) -> tuple[str, bytes]:
        """Fingerprint and content of the file of the contrasts."""
        return pack_contrasts(self.contrasts)

    @cached_property
    def packed_study(self) -> tuple[str, bytes]:
        """Fingerprint and content of the file of the study; empty without one."""
        return ("", b"") if self.study is None else pack_study(self.study)

    @cached_property
    def manifests(self) -> list[str]:
        """The list of images of each batch."""
        spec = self.spec
        return [format_manifest(self.images[spec.batch(i)]) for i in range(spec.n_batches)]

    @cached_property
    def stamps(self) -> Stamps:
        """The fingerprints that the intermediate files will have."""
        model = self.packed_model[0]
        of_run = run_stamp(model, self.manifests)
        return Stamps(
            [batch_stamp(model, text.encode()) for text in self.manifests],
            [block_stamp(of_run, block) for block in range(self.spec.n_blocks)],
            of_run,
        )

    @cached_property
    def taken(self) -> Taken:
        """What need not be read, because an earlier run has read it."""
        if self.earlier is None:
            return Taken(0, {})
        return self.earlier.find_taken(self.spec, self.images, lambda: self.stamps.batches)

    @cached_property
    def tile_names(self) -> list[str]:
        """The name of the tile of each batch."""
        batches = (self.images[self.spec.batch(i)] for i in range(self.spec.n_batches))
        return [name_tile(stamp_tile(self.spec, images)) for images in batches]

    @cached_property
    def n_in_tiles(self) -> int:
        """How many images need not be read because an earlier run has left their values."""
        if self.earlier is None:
            return 0
        stored = Stored(self.spec, self.earlier.places.tiles)
        batches = [self.images[self.spec.batch(i)] for i in range(self.spec.n_batches)]
        return sum(len(images) for images in batches if stored.find(images) is not None)

    @cached_property
    def model_id(self) -> str:
        """Fingerprint of model, contrasts and names of images.

        It stays the same when images are replaced, or with other batches and blocks.
        """
        spec = replace(self.spec, images_per_batch=0, voxels_per_block=0, rows_per_chunk=0, ends=())
        entries = self.images
        if self.usual_order is not None:
            spec = spec.sort(self.usual_order)
            entries = [entries[i] for i in self.usual_order]
        images = [(str(e.image), e.volume, str(e.mask), e.mask_volume) for e in entries]
        return fingerprint(pack_model(spec)[0], self.packed_contrasts[1], repr(images))


class PlanFiles(NamedTuple):
    """What planning leaves for the stages that follow."""

    model_file: Path
    batch_files: list[Path]
    contrasts_file: Path
    blocks: list[int]
    fingerprint: str  # of the model and the images, without the contrasts
    model_id: str  # of the model and its contrasts, however it is planned
    study_file: Path | None = None


class _Design(NamedTuple):
    """X and Z; their rows in the order in which the images are read."""

    X: FloatArray
    names: tuple[str, ...]  # of the columns of X
    factors: tuple[RandomFactor, ...]
    effect_names: tuple[tuple[str, ...], ...]  # of the random effects of each factor
    level_names: tuple[tuple[str, ...], ...]  # of the levels of each factor


@quiet_libraries()
def prepare_run(
    request: Request,
    parallel_nodes: int | None = None,
    work_folder: Path | None = None,
    places: EarlierPlaces | None = None,
) -> PreparedRun:
    """Check everything that can be checked without reading voxels of the images.

    Parameters
    ----------
    request : Request
    parallel_nodes : int, optional
        Nodes that run at the same time; default: as the request says.
    work_folder : Path, optional
        Where intermediate files go; default: as the request says.
    places : EarlierPlaces, optional
        Where an earlier run may have left products; default: nowhere.

    Raises
    ------
    InputError
        With all faults together, those of the request among them.
    """
    problems = Problems(request.faults)
    images = find_images(request.images, "images", problems)
    names = name_images(images.paths)
    check_rows(request, names, problems)
    rows = sort_rows(request, names, problems)
    expected = problems.attempt(fit_image, images, request.max_bytes)
    entries = _attach_masks(request, images, expected, problems)
    problems += _check_model(request, rows.X, images.n_listed)
    factors = _make_factors(request, rows, images.n_listed, problems)
    read_mask_of = partial(problems.attempt, read_optional_mask, expected)
    mask = read_mask_of(request.analysis_mask, "analysis_mask")
    allowed = read_mask_of(request.post_mask, "post_mask")
    can_write = _check_places(request, entries, work_folder, problems)
    design = sizes = plan = None
    if rows.X is not None and expected is not None:
        order = _order_rows(factors, entries, len(rows.X.values))
        design = _arrange_design(rows.X, rows, factors, order)
        sizes = _measure(request, design, images, 1 if mask is None else int(mask.sum()))
        plan_sizes = partial(_plan_sizes, request, parallel_nodes or request.parallel_nodes)
        plan = problems.attempt(plan_sizes, sizes, mask is not None)
    if plan is not None and mask is not None and can_write:
        problems += check_disk(plan, request.out_dir, work_folder or request.workflow_folder)
    if problems or design is None or mask is None or allowed is None or not sizes or not plan:
        raise InputError(problems)
    spec = _make_spec(request, design, images, mask, allowed, sizes, plan)
    contrasts = ContrastSpec(request.contrasts, request.two_sided, request.minlog)
    notices = find_notices(entries, spec.design)
    pairs = list_pairs(rows, entries, names)
    entries = _number(entries, order)
    study = None if request.study is None else request.study.sort(order.tolist())
    run = PreparedRun(spec, contrasts, entries, plan, notices, pairs, study)
    if places is None:
        return run
    has_room = partial(_has_room, request, work_folder or request.workflow_folder)
    return _go_on(run, places, sizes, request, plan_sizes, has_room)


def _number(entries: Sequence[ImageEntry], order: NDArray[np.intp]) -> list[ImageEntry]:
    """Return images in another order, with their rows."""
    return [entries[i]._replace(row=row) for row, i in enumerate(order)]


def _has_room(request: Request, work_folder: Path, plan: Plan) -> bool:
    return not check_disk(plan, request.out_dir, work_folder)


def _go_on(
    run: PreparedRun,
    places: EarlierPlaces,
    sizes: Sizes,
    request: Request,
    plan_sizes: Callable[..., Plan],
    has_room: Callable[[Plan], bool],
) -> PreparedRun:
    """Return a run that keeps batches of an earlier one, if there are any to keep."""
    earlier = Earlier(places, run.spec, run.images)
    run = replace(run, earlier=earlier)
    batches = earlier.choose_batches(
        run.spec.n_batches, lambda size: can_keep(sizes, request.max_bytes, size)
    )
    if batches is not None:
        spec = run.spec.sort(batches.order)
        columns = count_columns_of_rows(spec.factors) if spec.factors else ()
        try:
            plan = plan_sizes(sizes._replace(columns_of_rows=columns), kept=batches.kept)
        except InputError:  # it takes more memory than with the batches that are usual
            plan = None
        if plan is not None and has_room(plan):
            return _regroup(run, spec, plan, batches.order)
    all_read = run.n_in_tiles < len(run.images)
    notice = earlier.explain(request.out_dir) if all_read else None
    return replace(run, notices=[*run.notices, *([notice] if notice else [])])


def _regroup(run: PreparedRun, spec: ModelSpec, plan: Plan, order: NDArray[np.intp]) -> PreparedRun:
    """Return a run with its observations in another order, and other batches."""
    if plan.batches == run.plan.batches and (order == np.arange(order.size)).all():
        return run
    spec = replace(
        spec,
        ends=tuple(np.cumsum(plan.batches).tolist()),
        voxels_per_block=plan.voxels_per_block,
        rows_per_chunk=plan.rows_per_chunk,
    )
    images = _number(run.images, order)
    study = None if run.study is None else run.study.sort(order.tolist())
    usual_order = np.argsort(order)
    return replace(run, spec=spec, images=images, plan=plan, study=study, usual_order=usual_order)


def _attach_masks(
    request: Request, images: FoundImages, expected: Header | None, problems: Problems
) -> list[ImageEntry]:
    """Return the images, each with the mask of its data if there is one."""
    if request.data_masks is None:
        return images.entries
    listed = [mask for mask in request.data_masks if mask is not None]
    masks = find_images(listed, "data_masks", problems, expected)
    if len(listed) == len(request.data_masks):
        entries = attach_masks(images, masks, problems)
        check_masks(request, images.paths, masks.paths, problems)
        return entries
    have_one = [i for i, mask in enumerate(request.data_masks) if mask is not None]
    entries = list(images.entries)
    if len(entries) == len(request.data_masks):  # else some could not be read, which is said
        chosen = images._replace(entries=[entries[i] for i in have_one], n_listed=len(listed))
        for i, entry in zip(have_one, attach_masks(chosen, masks, problems), strict=False):
            entries[i] = entry
    return entries


def _check_places(
    request: Request, entries: list[ImageEntry], work_folder: Path | None, problems: Problems
) -> bool:
    """Note what is wrong with the folders; return whether both can be written."""
    obstacles = check_folders(request, work_folder or request.workflow_folder)
    problems += obstacles
    if work_folder is None and "[" in str(request.workflow_folder):  # Nipype takes it for a pattern
        problems.add(
            "work_dir",
            "The folder for intermediate files, {folder}, has a bracket in its path, which Nipype "
            "cannot work in; choose another {work_dir}.",
            folder=request.workflow_folder,
        )
    if not obstacles:
        problems += check_overwriting(request, entries)
    return not obstacles


def _make_spec(
    request: Request,
    design: _Design,
    images: FoundImages,
    mask: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    sizes: Sizes,
    plan: Plan,
) -> ModelSpec:
    return ModelSpec(
        design=factorise_design(design.X),
        names=design.names,
        space=open_space(images.entries[0].image, mask),
        allowed=allowed[mask],
        minimum_n=request.minimum_n(len(images.entries)),
        threshold=-np.inf if request.threshold is None else request.threshold,
        zero_is_missing=request.zero_is_missing,
        staged_dtype=f"float{8 * sizes.staged_itemsize}",
        map_dtype=f"float{8 * sizes.map_itemsize}",
        with_cov=request.with_cov,
        images_per_batch=plan.images_per_batch,
        voxels_per_block=plan.voxels_per_block,
        rows_per_chunk=plan.rows_per_chunk,
        factors=design.factors,
        effect_names=design.effect_names,
        level_names=design.level_names,
        options=request.estimation,
        with_resms=request.with_resms,
        deficient=request.deficient,
    )


def _plan_sizes(
    request: Request,
    parallel_nodes: int,
    sizes: Sizes,
    is_mask_known: bool = True,
    kept: Sequence[int] = (),
) -> Plan:
    """Plan a run; if its mask could not be read, only see whether one voxel is too much."""
    try:
        return plan_run(
            sizes,
            request.max_bytes,
            request.images_per_batch,
            request.voxels_per_block,
            request.max_blocks,
            request.minutes_per_job,
            parallel_nodes,
            kept,
        )
    except InputError as error:
        if is_mask_known:
            raise
        raise InputError(
            Problem(
                "max_bytes",
                "{max_bytes} is {given:memory}, too little for even one voxel; how much is needed "
                "can be told when the analysis mask can be read.",
                given=request.max_bytes,
            )
        ) from error


def _measure(request: Request, design: _Design, images: FoundImages, n_voxels: int) -> Sizes:
    """Return what the cost of a run depends on."""
    kinds = list_distinct(images.headers)
    is_double = any(h.dtype.newbyteorder("=") == np.float64 for h in kinds)
    return Sizes(
        n_images=images.n_listed or 1,
        n_params=design.X.shape[1],
        n_voxels=n_voxels,
        n_values=images.expected.n_values if images.expected else 1,
        image_itemsize=max(h.bytes_to_read for h in kinds),
        staged_itemsize=4 if all(h.fits_float32 for h in kinds) else 8,
        map_itemsize=8 if is_double else 4,
        contrast_rows=tuple(len(c.matrix) for c in request.contrasts),
        with_cov=request.with_cov,
        is_compressed=has_compressed(images),
        with_tiles=request.with_tiles,
        columns_of_rows=count_columns_of_rows(design.factors) if design.factors else (),
        n_variances=sum(factor.n_entries for factor in design.factors),
    )


def write_plan(run: PreparedRun, folder: Path, aside: Path | None = None) -> PlanFiles:
    """Write the plan; a file whose content is the same is left as it is.

    Products of an earlier run that are used again are put `aside` before.
    """
    if aside is not None:
        put_aside(run.taken.sources, aside)
    model_file, contrasts_file = folder / "model.blm", folder / "contrasts.json"
    batch_files = [folder / f"batch_{i:04d}.tsv" for i in range(len(run.manifests))]
    write_if_changed(model_file, run.packed_model[1])
    for path, text in zip(batch_files, run.manifests, strict=True):
        write_if_changed(path, text.encode())
    write_if_changed(contrasts_file, run.packed_contrasts[1])
    study_file = None
    if run.study is not None:
        study_file = folder / "study.json"
        write_if_changed(study_file, run.packed_study[1])
    blocks = list(range(run.spec.n_blocks))
    stamp, model_id = run.stamps.run, run.model_id
    return PlanFiles(model_file, batch_files, contrasts_file, blocks, stamp, model_id, study_file)


def is_done(run: PreparedRun, request: Request) -> bool:
    """Return whether the maps are there that a run would make, and unchanged since."""
    ending = name_map(run.spec.space, "", request.compress)
    declared = describe_declared(run.spec.model)
    tests, study = run.packed_contrasts[0], run.packed_study[0]
    stamp = maps_stamp(run.stamps.run, tests, study, ending, declared)
    return is_published(request.out_dir, stamp, partial(is_result_name, model=run.spec.model))


def has_tiles(run: PreparedRun, folder: Path) -> bool:
    """Return whether a folder has the tiles of all batches."""
    return all((folder / name).is_file() for name in run.tile_names)


def check_out_dir(run: PreparedRun, request: Request, work_dir: Path) -> None:
    """Raise InputError if the maps would replace those of another model, made elsewhere."""
    claim = Claim(run.model_id, work_dir, request.overwrite)
    check_claim(request.out_dir, claim, partial(is_result_name, model=run.spec.model))


def replaces_another(run: PreparedRun, request: Request) -> bool:
    """Return whether the maps would replace those of another model.

    Those of a study that goes on are not another's.
    """
    if request.work_dir is None and run.taken.n_images:
        return False
    is_ours = partial(is_result_name, model=run.spec.model)
    return has_another_model(request.out_dir, run.model_id, is_ours)


def _check_model(request: Request, X: Table | None, n_images: int | None) -> list[Problem]:
    """Return what is wrong with X, the contrasts, and the least number of images."""
    n_params = None if X is None else len(X.names)
    problems = check_contrasts(request.contrasts, n_params)
    if X is not None:
        problems += _check_design(X, request, n_images)
    minimum = request.min_n or 0
    if n_images is not None and minimum > n_images:
        template = "{min_n} is {n}, but there are only {n_images} images."
        problems.append(Problem("min_n", template, n=minimum, n_images=n_images))
    return problems


def _check_design(table: Table, request: Request, n_images: int | None) -> list[Problem]:
    """Return what is wrong with X, and which contrasts it does not have."""
    may_be_deficient = request.deficient == "estimable"
    X = table.values
    faults = about("X", check_design(X, table.names, n_images, table.has_header, may_be_deficient))
    if has_possible_sizes(X):
        faults += check_sizes(request.contrasts, X)
    if faults or not may_be_deficient or not np.isfinite(X).all():
        return faults
    whole = [c for c in request.contrasts if c.matrix.size and c.matrix.shape[1] == X.shape[1]]
    return check_estimable(whole, factorise_design(X).R)


def _make_factors(
    request: Request, rows: ModelRows, n_images: int | None, problems: Problems
) -> tuple[RandomFactor, ...]:
    """Return the random factors; none of them if they or X cannot be used."""
    if request.estimation is None:
        return ()
    X = rows.X.values if rows.X is not None and has_possible_sizes(rows.X.values) else None
    factors, faults = examine_factors(rows.factors, n_images, X, request.estimation.safe_mode)
    problems += faults
    return factors if factors and X is not None and len(X) == len(factors[0].level) else ()


def _order_rows(
    factors: Sequence[RandomFactor], images: list[ImageEntry], n_rows: int
) -> NDArray[np.intp]:
    """Return the order in which observations are read.

    With the rows of a level side by side a batch has few columns of Z, and their sums stay in
    the cache.
    """
    if not factors or must_be_read_in_order(images):
        return np.arange(n_rows)
    largest = max(factors, key=lambda factor: factor.n_columns)
    return np.argsort(largest.level, kind="stable")


def _arrange_design(
    table: Table, rows: ModelRows, factors: Sequence[RandomFactor], order: NDArray[np.intp]
) -> _Design:
    """Return X and Z with their rows in another order."""
    asked = [factor for factor in rows.factors if factor is not None]
    return _Design(
        table.values[order],
        tuple(table.names),
        tuple(factor._replace(level=factor.level[order], Z=factor.Z[order]) for factor in factors),
        tuple(tuple(name_effects(factor.design)) for factor in asked),
        name_levels(asked, factors),
    )
