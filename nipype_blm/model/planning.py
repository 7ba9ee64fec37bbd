"""How a run is cut into batches of images and blocks of voxels: one pure function."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import packed_size
from nipype_blm.core.products import WORD
from nipype_blm.core.threads import TILE
from nipype_blm.errors import InputError, Problem
from nipype_blm.model.costs import Sizes, predict_fitting_s, predict_reading_s

# Starting a process costs as much as reading some 280 images, and merging a batch as much as
# some 20; the presence bits, on the other hand, grow with the batch.
MOST_IMAGES_PER_BATCH = 1024
FEWEST_IMAGES_PER_BATCH = 256
PRESENCE_BYTES = 64 * 2**20
# Enough for a block to hide the cost of starting its node; more only costs memory.
BLOCK_BYTES = 256 * 2**20
STAGING_BYTES = 64 * 2**20
# Every block reads from the products of every batch, and Nipype looks after every node: both
# cost more than the work itself if there are thousands.
MOST_NODES = 256
# A node on a pool of workers costs some 0.1 s.
LEAST_NODE_S = 2.0
# What is kept of an image in the list of its batch: paths, sizes, times, those of its mask too.
LISTED_BYTES = 1200
# The interpreter and libraries; never taken to be more than a quarter of the budget.
BASE_BYTES = 256 * 2**20
# A value of a mask: a number of 64 bits, and whether it is inside.
MASK_BYTES = 9


class Plan(NamedTuple):
    """Batches, blocks and what they cost; depends on the configuration alone."""

    images_per_batch: int  # of the largest
    n_batches: int
    voxels_per_block: int
    n_blocks: int
    rows_per_chunk: int  # images staged at once
    thread_bytes: int  # memory of each further reading thread
    products_bytes: int  # memory of a node that reads, with one thread
    block_bytes: int  # memory of a node that fits
    disk_bytes: int  # intermediate files
    kept_bytes: int  # those that new contrasts need
    map_bytes: int  # results, uncompressed
    tiles_bytes: int = 0  # values of all images by voxel; in `disk_bytes`, too
    batches: tuple[int, ...] = ()  # images of each

    def threads(self, wanted: int, max_bytes: int) -> int:
        """Return how many of the threads wanted fit into memory, at least 1."""
        spare = _usable(max_bytes) - self.products_bytes
        return max(1, min(wanted, 1 + spare // self.thread_bytes))

    def node_bytes(self, n_threads: int) -> int:
        """Return the memory of a node that reads a batch with so many threads, or fits a block."""
        reading = self.products_bytes + (n_threads - 1) * self.thread_bytes
        return max(reading, self.block_bytes) + BASE_BYTES


def plan_run(
    sizes: Sizes,
    max_bytes: int,
    images_per_batch: int | None = None,
    voxels_per_block: int | None = None,
    max_blocks: int | None = None,
    minutes_per_job: float | None = None,
    parallel_nodes: int = 1,
    kept: Sequence[int] = (),
) -> Plan:
    """Choose batches of images and blocks of voxels that fit into memory.

    Parameters
    ----------
    sizes : Sizes
    max_bytes : int
        Memory that one process may use.
    images_per_batch, voxels_per_block : int, optional
        Chosen by the user; used as they are if memory permits.
    max_blocks : int, optional
        Most voxel blocks, if memory permits.
    minutes_per_job : float, optional
        Least time that one core should take for a batch, and for a block, if memory permits
        and there is as much work; batches and blocks only become larger by it.
    parallel_nodes : int
        Nodes that run at the same time; there are as many batches and blocks, if each has
        work for some seconds.
    kept : sequence of int
        Images of batches of an earlier run, which stay as they are; those of all others follow.

    Raises
    ------
    InputError
        If the memory is too small; names the least that works.
    """
    usable = _usable(max_bytes)
    others = sizes._replace(n_images=sizes.n_images - sum(kept))
    batch = 0
    if others.n_images:
        batch = images_per_batch or _choose_batch(others, minutes_per_job, parallel_nodes)
        batch = min(batch, others.n_images)
    if images_per_batch is None:
        batch = _fit_batch(sizes, batch, usable)
    batches = (*kept, *_cut(others.n_images, batch, are_even=images_per_batch is None))
    batch = max(batches)
    if kept:
        sizes = sizes._replace(n_words=sum(-(-size // WORD) for size in batches))
    least = _least_bytes(sizes, batch)
    if least > usable:
        raise InputError(
            Problem(
                "max_bytes",
                "{max_bytes} is {given:memory}, too little for {n_voxels} voxels{Z} and {n_params} "
                "columns of X; the least that works is {least:budget}.",
                given=max_bytes,
                n_voxels=sizes.n_voxels,
                Z=f", {sizes.n_raneffs} columns of Z" if sizes.is_mixed else "",
                n_params=sizes.n_params,
                least=_budget_for(least),
            )
        )
    chunk = _fit_chunk(sizes, batch, usable)
    per_voxel = _block_bytes_per_voxel(sizes, batch) + _contrast_bytes_per_voxel(sizes)
    fixed = _fixed_block_bytes(sizes, batch)
    most = (usable - fixed) // per_voxel
    block = voxels_per_block or _choose_block(
        sizes, batch, most, max_blocks or MOST_NODES, minutes_per_job, parallel_nodes
    )
    block = min(block, most, sizes.n_voxels)
    n_blocks = -(-sizes.n_voxels // block)
    return Plan(
        images_per_batch=batch,
        n_batches=len(batches),
        voxels_per_block=block,
        n_blocks=n_blocks,
        rows_per_chunk=chunk,
        thread_bytes=_image_bytes(sizes),
        products_bytes=_products_bytes(sizes, batch, chunk),
        block_bytes=block * per_voxel + fixed,
        disk_bytes=_disk_bytes(sizes, batches, n_blocks, parallel_nodes),
        kept_bytes=sizes.n_voxels * _estimates_bytes_per_voxel(sizes)
        + (n_blocks + 1) * _zeros_bytes(sizes),
        map_bytes=_map_bytes(sizes),
        tiles_bytes=_tiles_bytes(sizes),
        batches=batches,
    )


def _cut(n_images: int, batch: int, are_even: bool) -> list[int]:
    """Return the images of each batch."""
    if not n_images:
        return []
    if are_even:
        batch = -(-n_images // -(-n_images // batch))
    *full, rest = range(0, n_images, batch)
    return [batch] * len(full) + [n_images - rest]


def can_keep(sizes: Sizes, max_bytes: int, batch: int) -> bool:
    """Return whether memory holds a batch that was planned for another run."""
    return _least_bytes(sizes, batch) <= _usable(max_bytes)


def check_image(max_bytes: int, n_values: int, bytes_per_value: int, what: str) -> None:
    """Refuse images of which one alone is too much, before a mask of their size is read.

    Parameters
    ----------
    max_bytes : int
        Memory that one process may use.
    n_values : int
        Of one image.
    bytes_per_value : int
        Memory for reading one of them.
    what : str
        The images and their size, in words.

    Raises
    ------
    InputError
        Naming the least that one image needs.
    """
    needed = n_values * (bytes_per_value + MASK_BYTES)
    if needed > max(_usable(max_bytes), BASE_BYTES):  # less is no harm, and `plan_run` knows more
        raise InputError(
            Problem(
                "max_bytes",
                "{max_bytes} is {given:memory}, too little for {what}: reading one takes "
                "{needed:budget}.  Give more, or see whether their headers are right.",
                given=max_bytes,
                what=what,
                needed=_budget_for(needed),
            )
        )


def count_columns_of_rows(factors: Sequence[RandomFactor]) -> tuple[int, ...]:
    """Return the most columns of Z that 1, 2, 4, ... consecutive rows use, up to all rows.

    Notes
    -----
    A column counts for a range of rows at its first row there: rows from s on have it at row
    i if the row before with the same level lies before s.  So row i adds to all s between
    that row and i.
    """
    n_obs = len(factors[0].level)
    rows = np.arange(n_obs)
    previous = [_find_previous(factor) for factor in factors]
    most = []
    for step in range((n_obs - 1).bit_length() + 1):
        n_rows = min(2**step, n_obs)
        change = np.zeros(n_obs + 1, np.int64)
        for factor, before in zip(factors, previous, strict=True):
            first = np.maximum(before, rows - n_rows) + 1
            change[:-1] += factor.n_effects * np.bincount(np.maximum(first, 0), minlength=n_obs)
            change[1:] -= factor.n_effects
        most.append(int(change.cumsum().max()))
    return tuple(most)


def _find_previous(factor: RandomFactor) -> NDArray[np.intp]:
    """Return the row before each row that has the same level; -1 for a level's first."""
    order = np.argsort(factor.level, kind="stable")
    is_same = np.diff(factor.level[order]) == 0
    previous = np.full(order.size, -1)
    previous[order[1:][is_same]] = order[:-1][is_same]
    return previous


def _usable(max_bytes: int) -> int:
    """Return the memory left for arrays."""
    return max_bytes - min(BASE_BYTES, max_bytes // 4)


def _budget_for(n_bytes: int) -> int:
    """Return the memory of which `n_bytes` are left for arrays."""
    return n_bytes + min(BASE_BYTES, (n_bytes - 1) // 3)


def _image_bytes(sizes: Sizes) -> int:
    """One image as it is read, the file that it is decompressed from, and its mask if any."""
    copies = 1 + sizes.is_compressed  # a file is no larger than its content, or hardly
    return copies * sizes.n_values * sizes.image_itemsize + sizes.n_voxels * sizes.staged_itemsize


def _products_bytes_per_voxel(sizes: Sizes, batch: int) -> int:
    """Products of one batch at one voxel, in memory or in its file."""
    columns = sizes.n_params + sizes.most_columns(batch)
    return 8 * (columns + 2) + 4 + 4 * -(-batch // WORD)


def _estimates_bytes_per_voxel(sizes: Sizes) -> int:
    """Estimates at one voxel that misses images, in its file."""
    matrices = 1 + sizes.n_variances + sizes.with_cov + sizes.is_mixed
    packed = packed_size(sizes.n_params) * matrices
    return 8 * (sizes.n_params + 5 + sizes.n_variances + packed) + sizes.n_params


def _products_bytes(sizes: Sizes, batch: int, chunk: int) -> int:
    """Memory of a node that reads: one image, a chunk staged, the products of the batch."""
    per_voxel = _products_bytes_per_voxel(sizes, batch) + chunk * sizes.staged_itemsize
    per_row = LISTED_BYTES + 8 * sizes.n_params  # its entry in the list, and its row of Q
    tile = 8 * TILE * (sizes.n_params + WORD + 2)
    fixed = _model_bytes(sizes) + _image_bytes(sizes) + batch * per_row + tile
    return fixed + sizes.n_voxels * per_voxel


def _choose_batch(sizes: Sizes, minutes_per_job: float | None, parallel_nodes: int) -> int:
    """Return the images of a batch, whatever the memory."""
    batch = PRESENCE_BYTES * 8 // sizes.n_voxels // WORD * WORD
    batch = min(max(batch, FEWEST_IMAGES_PER_BATCH), MOST_IMAGES_PER_BATCH)
    work_s = predict_reading_s(sizes, sizes.n_images)
    batch = min(batch, _share(sizes.n_images, work_s, parallel_nodes))
    most = _count_jobs(work_s, minutes_per_job)
    return max(batch, -(-sizes.n_images // most))


def _share(n_items: int, work_s: float, parallel_nodes: int) -> int:
    """Return the items of a node if there is one for each worker, or fewer that are worth it."""
    n_nodes = min(parallel_nodes, int(work_s / LEAST_NODE_S))
    return -(-n_items // max(1, n_nodes))


def _count_jobs(work_s: float, minutes_per_job: float | None) -> int:
    """Return the most jobs that work may be cut into."""
    if minutes_per_job is None:
        return MOST_NODES
    return int(max(1, min(work_s / 60 / minutes_per_job, 1e9)))  # finite for any target


def _model_bytes(sizes: Sizes) -> int:
    """X and its factor Q, and the levels and effects of random factors: in every node."""
    return 8 * sizes.n_images * (2 * sizes.n_params + 1 + 2 * sizes.n_variances)


def _volume_bytes(sizes: Sizes) -> int:
    """One volume of a map, and the positions of its voxels."""
    return sizes.n_values * (sizes.map_itemsize + 8)


def _zeros_bytes(sizes: Sizes) -> int:
    """Zeros, gaps and holes of each image, counted in every block."""
    return 4 * 3 * sizes.n_images


def _fixed_block_bytes(sizes: Sizes, batch: int) -> int:
    """Memory of a node that fits, but for its voxels."""
    # Of each image all pairs of columns: the one, the other, and their product.
    row_products = 3 * 8 * packed_size(sizes.n_params) * batch
    return _model_bytes(sizes) + _volume_bytes(sizes) + row_products + _zeros_bytes(sizes)


def _least_bytes(sizes: Sizes, batch: int) -> int:
    """Return the least memory for a batch: four images staged, a few voxels fitted."""
    per_voxel = _block_bytes_per_voxel(sizes, batch) + _contrast_bytes_per_voxel(sizes)
    block = _fixed_block_bytes(sizes, batch) + per_voxel * min(sizes.n_voxels, WORD)
    return max(_products_bytes(sizes, batch, 4), block)


def _fit_batch(sizes: Sizes, batch: int, usable: int) -> int:
    """Halve the batch until its presence bits fit into memory."""
    while batch > WORD and _least_bytes(sizes, batch) > usable:
        batch = max(WORD, batch // 2)
    return batch


def _fit_chunk(sizes: Sizes, batch: int, usable: int) -> int:
    """Return 32, 16, 8 or 4 images: sums are taken over groups of four whatever it is."""
    chunk = WORD
    row_bytes = sizes.n_voxels * sizes.staged_itemsize
    while chunk > 4 and (
        chunk * row_bytes > STAGING_BYTES or _products_bytes(sizes, batch, chunk) > usable
    ):
        chunk //= 2
    return chunk


def _block_bytes_per_voxel(sizes: Sizes, batch: int) -> int:
    """Products of one batch, their totals and the estimates of one voxel."""
    totals = 8 * (sizes.n_params + 3)
    covariances = 8 * packed_size(sizes.n_params) * sizes.with_cov  # a copy, while they are packed
    one_batch = _products_bytes_per_voxel(sizes, batch)
    fitted = one_batch + totals + _estimates_bytes_per_voxel(sizes) + covariances
    return fitted + (_mixed_bytes_per_voxel(sizes, batch) if sizes.is_mixed else 0)


def _mixed_bytes_per_voxel(sizes: Sizes, batch: int) -> int:
    """Return what a mixed model needs besides: all of Z'y and presence, estimates twice."""
    # Each batch has its own words: no more than one for 16 images, or for a smaller batch.
    words = max(sizes.n_words, sizes.n_images // min(batch, WORD // 2) + 1)
    gram = packed_size(sizes.n_params)
    copies = 8 * words + _estimates_bytes_per_voxel(sizes)
    return 8 * (sizes.n_raneffs + gram) + copies


def _contrast_bytes_per_voxel(sizes: Sizes) -> int:
    """Return the cost of the largest contrast, so that the plan depends on none."""
    p = sizes.n_params
    return 8 * (2 * p + (2 + sizes.n_variances) * p * p + 6 + sizes.is_mixed)


def _choose_block(
    sizes: Sizes,
    batch: int,
    most: int,
    max_blocks: int,
    minutes_per_job: float | None,
    parallel_nodes: int,
) -> int:
    """Return the voxels of a block, of which memory holds `most`; blocks are made even."""
    block = max(WORD, BLOCK_BYTES // _block_bytes_per_voxel(sizes, batch))
    work_s = predict_fitting_s(sizes, sizes.n_voxels)
    block = min(block, _share(sizes.n_voxels, work_s, parallel_nodes))
    most_blocks = min(_count_jobs(work_s, minutes_per_job), max_blocks)
    block = max(block, -(-sizes.n_voxels // most_blocks))
    n_blocks = -(-sizes.n_voxels // min(block, most))
    return -(-sizes.n_voxels // n_blocks)


def _disk_bytes(sizes: Sizes, batches: Sequence[int], n_blocks: int, parallel_nodes: int) -> int:
    """Return the size of all intermediate files, if every voxel missed some image.

    While images are read, those of a batch are saved once more by each node that reads.
    """
    of_batch = _products_bytes_per_voxel(sizes, max(batches))
    sizes_of = Counter(batches).items()
    products = sum(n * _products_bytes_per_voxel(sizes, size) for size, n in sizes_of)
    checkpoints = min(parallel_nodes, len(batches)) * of_batch
    lists = sizes.n_images * (LISTED_BYTES + 8 * (sizes.n_params + 1 + 2 * sizes.n_variances))
    statistics = sum(8 * (q + q * q + 3 + sizes.is_mixed) + 1 for q in sizes.contrast_rows)
    per_voxel = products + max(_estimates_bytes_per_voxel(sizes) + statistics, checkpoints)
    others = (n_blocks + 1) * _zeros_bytes(sizes) + lists + _tiles_bytes(sizes)
    return sizes.n_voxels * per_voxel + others


def _tiles_bytes(sizes: Sizes) -> int:
    """Return the size of the values of all images by voxel, if they cannot be compressed."""
    per_image = sizes.n_voxels * sizes.staged_itemsize + LISTED_BYTES
    return sizes.n_images * per_image if sizes.with_tiles else 0


def _map_bytes(sizes: Sizes) -> int:
    p = sizes.n_params
    volumes = 6 + p + (p * p if sizes.with_cov else 0)
    volumes += sum(8 + q + q * q + 2 * sizes.is_mixed for q in sizes.contrast_rows)
    if sizes.is_mixed:  # sigma2 and nit, D and varcomp, icc
        volumes += 2 + 3 * sizes.n_variances
    return sizes.n_values * volumes * sizes.map_itemsize
