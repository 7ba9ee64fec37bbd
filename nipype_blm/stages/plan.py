"""Plan a run: read and check everything but the voxels, cut it into batches and blocks."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray, factorise_design
from nipype_blm.errors import InputError, Problems
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import FileState, write_if_changed
from nipype_blm.io.images import (
    ImageHeader,
    check_size,
    describe_affine_fault,
    describe_grid,
    describe_grid_difference,
    find_grids,
    is_image_path,
    quiet_libraries,
    read_header,
    read_mask,
    stat_file,
)
from nipype_blm.io.inputs import is_written_for
from nipype_blm.io.manifest import ImageEntry, format_manifest, must_be_read_in_order
from nipype_blm.io.maps import make_template_header
from nipype_blm.io.publish import Claim, check_claim, is_published
from nipype_blm.io.specfile import pack_contrasts, pack_model
from nipype_blm.io.tables import ListedPath, Table, explain_path, read_path_list
from nipype_blm.model.config import BlmmConfig, ModelConfig
from nipype_blm.model.contrasts import check_contrasts, check_estimable, check_sizes
from nipype_blm.model.costs import Sizes
from nipype_blm.model.design import check_design, has_possible_sizes
from nipype_blm.model.planning import Plan, check_grid, count_columns_of_rows, plan_run
from nipype_blm.model.random import FactorTable, check_factors, make_factors
from nipype_blm.model.spec import ContrastSpec, ModelSpec
from nipype_blm.private import find_existing, find_obstacle
from nipype_blm.stages.maps import is_map_name
from nipype_blm.stages.notices import Pair, find_notices, list_pairs
from nipype_blm.stages.rows import check_masks, check_rows, name_images, read_rows, sort_rows
from nipype_blm.stages.stamps import batch_stamp, block_stamp, maps_stamp, run_stamp

# Reading headers waits for the disk: more threads than cores.
_HEADER_THREADS = 8
_MOST_REPORTED = 20
_MOST_GRIDS_SHOWN = 3
_COMPRESSED = (".gz", ".mgz")

T = TypeVar("T")


class PreparedRun(NamedTuple):
    """A run that has been checked and can start."""

    spec: ModelSpec
    contrasts: ContrastSpec
    images: list[ImageEntry]
    plan: Plan
    notices: list[str]  # what is no fault, but may not be meant
    pairs: list[Pair]  # the first and the last images and their rows


class PlanFiles(NamedTuple):
    """What planning leaves for the stages that follow."""

    model_file: Path
    batch_files: list[Path]
    contrasts_file: Path
    blocks: list[int]
    fingerprint: str  # of the model and the images, without the contrasts
    model_id: str  # as `identify_model` returns it


class _Found(NamedTuple):
    """The images that a field names."""

    entries: list[ImageEntry]
    headers: list[ImageHeader]  # of those that could be read
    n_listed: int | None  # None where the list, or the only image, could not be read
    paths: list[Path]  # of all that are listed
    expected: ImageHeader | None = None  # the grid that all images should have, if that is known


class _Design(NamedTuple):
    """X and Z; their rows in the order in which the images are read."""

    X: FloatArray
    names: tuple[str, ...]  # of the columns of X
    factors: tuple[RandomFactor, ...]
    effect_names: tuple[tuple[str, ...], ...]  # of the random effects of each factor


@quiet_libraries()
def prepare_run(
    config: ModelConfig, parallel_nodes: int | None = None, work_folder: Path | None = None
) -> PreparedRun:
    """Check everything that can be checked without reading voxels of the images.

    Parameters
    ----------
    config : ModelConfig
    parallel_nodes : int, optional
        Nodes that run at the same time; default: as the configuration says.
    work_folder : Path, optional
        Where intermediate files go; default: as the configuration says.

    Raises
    ------
    InputError
        With all faults together.
    """
    problems = Problems()
    rows = read_rows(config, problems)
    images = _find_images(config.Y_files, "Y_files", problems)
    names = name_images(images.paths)
    check_rows(config, rows, names, problems)
    rows = sort_rows(config, rows, names, problems)
    table, random = rows.X, rows.random
    expected = problems.attempt(_fit_grid, images, config.MAXMEM)
    entries = images.entries
    if config.data_mask_files is not None:
        masks = _find_images(config.data_mask_files, "data_mask_files", problems, expected)
        entries = _attach_masks(images, masks, problems)
        check_masks(config, images.paths, masks.paths, problems)
    problems += check_contrasts(config.contrasts, None if table is None else len(table.names))
    if table is not None:
        problems += _check_design(table, config, images.n_listed)
    factors = _make_factors(config, table, random, images.n_listed, problems)
    minimum = config.Missingness.MinN or 0
    if images.n_listed is not None and minimum > images.n_listed:
        problems.append(
            f"Missingness.MinN is {minimum}, but there are only {images.n_listed} images."
        )
    read_mask_of = partial(problems.attempt, _read_optional_mask, expected)
    mask = read_mask_of(config.analysis_mask, "analysis_mask")
    allowed = read_mask_of(config.Missingness.Masking, "Missingness.Masking")
    obstacles = _check_folders(config, work_folder or config.workflow_folder)
    problems += obstacles
    if work_folder is None and "[" in str(config.workflow_folder):  # Nipype takes it for a pattern
        problems.append(
            f"The folder for intermediate files, {config.workflow_folder}, has a bracket in its "
            "path, which Nipype cannot work in; choose another work_dir."
        )
    if not obstacles:
        problems += _check_overwriting(config, entries)
    design = sizes = plan = None
    if table is not None and expected is not None:
        order = _order_rows(factors, entries, len(table.values))
        design = _arrange_design(table, random, factors, order)
        sizes = _measure(config, design, images, 1 if mask is None else int(mask.sum()))
        plan = problems.attempt(
            _plan_sizes, config, sizes, mask is not None, parallel_nodes or config.parallel_nodes
        )
    if plan is not None and mask is not None and not obstacles:
        problems += _check_disk(plan, config.outdir, work_folder or config.workflow_folder)
    if problems or design is None or mask is None or allowed is None or not sizes or not plan:
        raise InputError(problems)
    spec = _make_spec(config, design, images, mask, allowed, sizes, plan)
    contrasts = ContrastSpec(config.contrasts, config.two_sided, config.minlog)
    notices = find_notices(entries, spec.design)
    pairs = list_pairs(rows, entries, names)
    entries = [entries[i]._replace(row=row) for row, i in enumerate(order)]
    return PreparedRun(spec, contrasts, entries, plan, notices, pairs)


def _make_spec(
    config: ModelConfig,
    design: _Design,
    images: _Found,
    mask: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    sizes: Sizes,
    plan: Plan,
) -> ModelSpec:
    return ModelSpec(
        design=factorise_design(design.X),
        names=design.names,
        shape=images.headers[0].shape,
        header=make_template_header(images.entries[0].image),
        mask=mask,
        allowed=allowed[mask],
        minimum_n=config.Missingness.minimum_n(len(images.entries)),
        threshold=-np.inf if config.data_mask_thresh is None else config.data_mask_thresh,
        zero_is_missing=config.zero_is_missing,
        staged_dtype=f"float{8 * sizes.staged_itemsize}",
        map_dtype=f"float{8 * sizes.map_itemsize}",
        with_cov=config.OutputCovB,
        images_per_batch=plan.images_per_batch,
        voxels_per_block=plan.voxels_per_block,
        rows_per_chunk=plan.rows_per_chunk,
        factors=design.factors,
        effect_names=design.effect_names,
        options=config.estimation if isinstance(config, BlmmConfig) else None,
        with_resms=config.resms if isinstance(config, BlmmConfig) else True,
    )


def _plan_sizes(
    config: ModelConfig, sizes: Sizes, is_mask_known: bool, parallel_nodes: int
) -> Plan:
    """Plan a run; if its mask could not be read, only see whether one voxel is too much."""
    try:
        plan = plan_run(
            sizes,
            config.MAXMEM,
            config.images_per_batch,
            config.voxels_per_block,
            config.maxnvb,
            config.minutes_per_job,
            parallel_nodes,
        )
    except InputError as error:
        if is_mask_known:
            raise
        raise InputError(
            f"MAXMEM is {config.MAXMEM} bytes, too little for even one voxel; how much is needed "
            "can be told when the analysis mask can be read."
        ) from error
    return plan


def _measure(config: ModelConfig, design: _Design, images: _Found, n_voxels: int) -> Sizes:
    """Return what the cost of a run depends on."""
    kinds = _list_kinds(images)
    is_double = any(h.dtype.newbyteorder("=") == np.float64 for h in kinds)
    return Sizes(
        n_images=images.n_listed or 1,
        n_params=design.X.shape[1],
        n_voxels=n_voxels,
        n_grid=images.expected.n_grid if images.expected else 1,
        image_itemsize=max(h.bytes_to_read for h in kinds),
        staged_itemsize=4 if all(h.fits_float32 for h in kinds) else 8,
        map_itemsize=8 if is_double else 4,
        contrast_rows=tuple(len(c.matrix) for c in config.contrasts),
        with_cov=config.OutputCovB,
        is_compressed=_has_compressed(images),
        columns_of_rows=count_columns_of_rows(design.factors) if design.factors else (),
        n_variances=sum(factor.n_entries for factor in design.factors),
    )


def _list_kinds(images: _Found) -> list[ImageHeader]:
    """Return the different headers; equal ones are parsed once, so that there are few."""
    return list({id(header): header for header in images.headers}.values())


def _has_compressed(images: _Found) -> bool:
    return any(entry.image.suffix in _COMPRESSED for entry in images.entries)


def _fit_grid(images: _Found, max_bytes: int) -> ImageHeader | None:
    """Return the grid of the images, if memory holds one of them."""
    grid = images.expected
    if grid is not None:
        itemsize = max(header.bytes_to_read for header in _list_kinds(images))
        check_grid(max_bytes, grid.shape, itemsize * (1 + _has_compressed(images)))
    return grid


def write_plan(run: PreparedRun, folder: Path) -> PlanFiles:
    """Write the plan; a file whose content is the same is left as it is."""
    spec = run.spec
    stamp, content = pack_model(spec)
    model_file = folder / "model.blm"
    write_if_changed(model_file, content)
    texts = _format_manifests(run)
    batch_files = [folder / f"batch_{i:04d}.tsv" for i in range(len(texts))]
    for path, text in zip(batch_files, texts, strict=True):
        write_if_changed(path, text.encode())
    contrasts_file = folder / "contrasts.json"
    write_if_changed(contrasts_file, pack_contrasts(run.contrasts)[1])
    return PlanFiles(
        model_file,
        batch_files,
        contrasts_file,
        list(range(spec.n_blocks)),
        run_stamp(stamp, texts),
        identify_model(run),
    )


def _format_manifests(run: PreparedRun) -> list[str]:
    """Return the list of images of each batch."""
    spec = run.spec
    return [format_manifest(run.images[spec.batch(i)]) for i in range(spec.n_batches)]


class Stamps(NamedTuple):
    """The fingerprints of what a run makes."""

    batches: list[str]  # of the products of each
    blocks: list[str]  # of the estimates of each
    run: str  # of the model and the images, without the contrasts


def stamp_files(run: PreparedRun) -> Stamps:
    """Return the fingerprints that the intermediate files of a run will have."""
    model, texts = pack_model(run.spec)[0], _format_manifests(run)
    of_run = run_stamp(model, texts)
    return Stamps(
        [batch_stamp(model, text.encode()) for text in texts],
        [block_stamp(of_run, block) for block in range(run.spec.n_blocks)],
        of_run,
    )


def is_done(run: PreparedRun, config: ModelConfig) -> bool:
    """Return whether outdir has what a run would give, made from the same and unchanged since."""
    if not is_written_for(config.outdir / "inputs.yml", config):
        return False
    extension = ".nii.gz" if config.compress else ".nii"
    stamp = maps_stamp(stamp_files(run).run, pack_contrasts(run.contrasts)[0], extension)
    return is_published(config.outdir, stamp, partial(is_map_name, model=run.spec.model))


def identify_model(run: PreparedRun) -> str:
    """Return a fingerprint of model, contrasts and names of images.

    It stays the same when images are replaced, or with other batches and blocks.
    """
    spec = replace(run.spec, images_per_batch=0, voxels_per_block=0, rows_per_chunk=0)
    images = [(str(e.image), e.volume, str(e.mask), e.mask_volume) for e in run.images]
    return fingerprint(pack_model(spec)[0], pack_contrasts(run.contrasts)[1], repr(images))


def check_out_dir(run: PreparedRun, config: ModelConfig, work_dir: Path) -> None:
    """Raise InputError if the maps would replace those of another model, made elsewhere."""
    claim = Claim(identify_model(run), work_dir, config.overwrite)
    check_claim(config.outdir, claim, partial(is_map_name, model=run.spec.model))


def list_files(given: Path | Sequence[Path], what: str) -> list[ListedPath]:
    """Return the files that a field names: a list file, one image, or several."""
    if not isinstance(given, Path):
        return [ListedPath(path, f"entry {i} of {what}") for i, path in enumerate(given, 1)]
    if is_image_path(given):
        fault = explain_path(given, given.name)
        if fault is not None:
            raise InputError(f"{what}: {fault}.")
        return [ListedPath(given, what)]
    return read_path_list(given, what)


def _check_design(table: Table, config: ModelConfig, n_images: int | None) -> list[str]:
    """Return what is wrong with X, and which contrasts it does not have."""
    may_be_deficient = config.deficient == "estimable"
    X = table.values
    faults = check_design(X, table.names, n_images, table.has_header, may_be_deficient)
    if has_possible_sizes(X):
        faults += check_sizes(config.contrasts, X)
    if faults or not may_be_deficient or not np.isfinite(X).all():
        return faults
    whole = [c for c in config.contrasts if c.vector and c.matrix.shape[1] == X.shape[1]]
    return check_estimable(whole, factorise_design(X).R)


def _make_factors(
    config: ModelConfig,
    table: Table | None,
    random: list[FactorTable | None],
    n_images: int | None,
    problems: Problems,
) -> tuple[RandomFactor, ...]:
    """Return the random factors; none of them if they or X cannot be used."""
    if not isinstance(config, BlmmConfig):
        return ()
    X = None if table is None or not has_possible_sizes(table.values) else table.values
    faults = check_factors(random, n_images, X, config.safeMode)
    problems += faults
    good = [found for found in random if found is not None]
    is_complete = not faults and len(good) == len(random) > 0
    if not is_complete or X is None or len(X) != len(good[0].labels):
        return ()
    return make_factors(good)


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
    table: Table,
    random: list[FactorTable | None],
    factors: Sequence[RandomFactor],
    order: NDArray[np.intp],
) -> _Design:
    """Return X and Z with their rows in another order."""
    return _Design(
        table.values[order],
        tuple(table.names),
        tuple(factor._replace(level=factor.level[order], Z=factor.Z[order]) for factor in factors),
        tuple(tuple(found.names) for found in random if found is not None),
    )


def _find_images(
    given: Path | Sequence[Path] | None,
    what: str,
    problems: Problems,
    expected: ImageHeader | None = None,
) -> _Found:
    """Read the headers of all images; a single 4D image stands for its volumes."""
    listed: list[ListedPath] | None = None
    with problems.collect():
        listed = [] if given is None else list_files(given, what)
    if not listed:
        return _Found([], [], None, [])
    size = -(-len(listed) // _HEADER_THREADS)
    parts = [listed[i : i + size] for i in range(0, len(listed), size)]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found_parts = pool.map(lambda part: [_read_entry(item) for item in part], parts)
        found = list(chain.from_iterable(found_parts))
    faults = [item for item in found if isinstance(item, str)]
    good = [item for item in found if not isinstance(item, str)]
    if len(good) == len(listed) == 1:
        [(entry, header)] = good
        volume = header._replace(n_volumes=1)  # one object, which is compared once
        good = [(entry._replace(volume=i), volume) for i in range(header.n_volumes)]
        listed = listed * header.n_volumes
    headers = [header for _, header in good]
    if expected is None and good:
        expected = problems.attempt(_choose_grid, what, good)
    differences = {
        id(header): _describe_difference(header, expected)
        for header in {id(header): header for header in headers}.values()
    }
    for entry, header in good:
        if differences[id(header)] is not None:
            faults.append(f"{entry.where}: {entry.image}: {differences[id(header)]}.")
    more = len(faults) - _MOST_REPORTED
    if more > 0:
        faults = [*faults[:_MOST_REPORTED], f"... and {more} more files of {what}."]
    problems += faults
    entries = [entry._replace(row=row) for row, (entry, _) in enumerate(good)]
    # The only one may have any number of volumes.
    n_listed = len(listed) if good or len(listed) > 1 else None
    return _Found(entries, headers, n_listed, [item.path for item in listed], expected)


def _choose_grid(what: str, images: Sequence[tuple[ImageEntry, ImageHeader]]) -> ImageHeader:
    """Return the grid of most images."""
    grids = find_grids(header for _, header in images)
    if not grids:  # each of them is at fault by itself
        return images[0][1]
    if 2 * len(grids[0]) > sum(map(len, grids)):
        return images[grids[0][0]][1]
    shown = []
    for group in grids[:_MOST_GRIDS_SHOWN]:
        entry, header = images[group[0]]
        shown.append(
            f"{len(group)} with {describe_grid(header)}, such as {entry.image} ({entry.where})"
        )
    more = len(grids) - len(shown)
    raise InputError(
        f"The images of {what} are on different grids, and on none are most of them: "
        f"{'; '.join(shown)}{f'; and others on {more} grids or more' * (more > 0)}.  "
        "Resample them to one."
    )


def _describe_difference(header: ImageHeader, expected: ImageHeader | None) -> str | None:
    if header.n_volumes > 1:
        return f"it has {header.n_volumes} volumes, expected 1"
    if expected is None:
        return describe_affine_fault(header)
    return describe_grid_difference(header, expected)


def _read_entry(listed: ListedPath) -> tuple[ImageEntry, ImageHeader] | str:
    try:
        state = stat_file(listed.path)
    except (OSError, ValueError):  # ValueError: no path can have a null byte
        state = FileState(0, 0, "")  # reading the header says what is wrong
    try:
        header = _read_header_once(listed.path, state)
        check_size(listed.path, header, state.size)
    except InputError as error:
        return f"{listed.where}: {error}"
    return ImageEntry(0, listed.path, 0, state, listed.where), header


@lru_cache(maxsize=2**17)
def _read_header_once(path: Path, state: FileState) -> ImageHeader:
    """Read a header, once in a process that first checks and then plans."""
    return read_header(path)


def _attach_masks(images: _Found, masks: _Found, problems: Problems) -> list[ImageEntry]:
    """Give each image its mask."""
    if None not in (images.n_listed, masks.n_listed) and images.n_listed != masks.n_listed:
        problems.append(
            f"data_mask_files names {masks.n_listed} masks, but there are {images.n_listed} "
            "images; give one mask for each image."
        )
    return [
        image._replace(mask=mask.image, mask_volume=mask.volume, mask_state=mask.state)
        for image, mask in zip(images.entries, masks.entries, strict=False)
    ]


def _read_optional_mask(
    expected: ImageHeader | None, path: Path | None, what: str
) -> NDArray[np.bool_] | None:
    """Read a mask; all voxels without one; None where there is no image to compare it with."""
    if expected is None:
        return None
    if path is None:
        return np.ones(expected.n_grid, bool)
    return read_mask(path, expected, what)


def _check_folders(config: ModelConfig, work_folder: Path) -> list[str]:
    """Return what prevents writing to the output folder and that of intermediate files."""
    problems = []
    obstacle = find_obstacle(config.outdir)
    if obstacle is not None:
        problems.append(f"outdir {config.outdir} {obstacle}.")
    is_within = config.work_dir is None and bool(problems)
    obstacle = None if is_within else find_obstacle(work_folder)
    if obstacle is not None:
        problems.append(f"work_dir {config.work_folder} {obstacle}; choose another work_dir.")
    if _follow(config.outdir).is_relative_to(_follow(config.workflow_folder)):
        problems.append(
            f"outdir {config.outdir} lies in {config.workflow_folder}, a folder for intermediate "
            "files that may be removed; choose another outdir or work_dir."
        )
    return problems


def _follow(path: Path) -> Path:
    """Return where links lead; `Path.resolve` fails if they lead in a circle."""
    return Path(os.path.realpath(path))


def _check_overwriting(config: ModelConfig, images: list[ImageEntry]) -> list[str]:
    """Return what would be lost: inputs with the place and name of a map, maps of another model."""
    model, other = "blm", "blmm"
    given = [config.X, config.analysis_mask, config.Missingness.Masking]
    if isinstance(config, BlmmConfig):
        model, other = other, model
        given += [path for factor in config.Z for path in (factor.factor, factor.design)]
    folder = _follow(config.outdir)
    files = [*folder.glob("*.nii*"), *folder.glob("contrasts/*.nii*")]
    maps = {path for path in files if is_map_name(str(path.relative_to(folder)), model)}
    names = {path.name for path in maps}
    given += [path for files in {image.files for image in images} for path in files]
    lost = {
        str(path)
        for path in given
        if maps
        and path is not None
        and (path.name in names or path.is_symlink())
        and _follow(path) in maps
    }
    problems = [
        f"{path} is read, but the maps would replace it; choose another outdir."
        for path in sorted(lost)
    ]
    others = [path for path in folder.glob(f"{other}_vox_*.nii*") if is_map_name(path.name, other)]
    if others:  # contrasts and inputs.yml have the same names
        problems.append(
            f"outdir {folder} has maps of {other} ({min(others).name}), some of which those of "
            f"{model} would replace; choose another outdir, or remove them."
        )
    return problems


def _check_disk(plan: Plan, out_dir: Path, work_folder: Path) -> list[str]:
    """Compare what a run needs with what is free on each disk.

    Intermediate files of an earlier run count as free, because new ones take their place; its
    maps do not, because they stay until the new ones are complete.
    """
    needs = [(work_folder, plan.disk_bytes), (out_dir, plan.map_bytes)]
    disks: dict[int, list[tuple[Path, int]]] = {}
    for folder, size in needs:
        disks.setdefault(find_existing(folder).stat().st_dev, []).append((folder, size))
    problems = []
    for needs_of_disk in disks.values():
        folders, sizes = zip(*needs_of_disk, strict=True)
        required = sum(sizes)
        free = shutil.disk_usage(find_existing(folders[0])).free
        if required > free and work_folder in folders:
            files = work_folder.rglob("*.blm")
            free += sum(path.stat().st_size for path in files)
        if required > free:
            problems.append(
                f"The disk of {' and '.join(map(str, folders))} has {free / 1e6:,.1f} MB free, "
                f"but up to {required / 1e6:,.1f} MB are needed; free some space, or choose a "
                "folder on another disk."
            )
    return problems
