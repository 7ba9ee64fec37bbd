"""Plans fit into memory, for any size of study, without any data."""

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nipype_blm.core.factors import RandomFactor, count_columns, select_rows
from nipype_blm.errors import InputError
from nipype_blm.model.costs import Sizes, predict_fitting_s, predict_reading_s
from nipype_blm.model.planning import (
    BASE_BYTES,
    MOST_NODES,
    Plan,
    can_keep,
    count_columns_of_rows,
    plan_run,
)

GIB = 2**30
ALL = Sizes(
    n_images=200,
    n_params=5,
    n_voxels=200_000,
    n_values=902_629,
    image_itemsize=4,
    staged_itemsize=4,
    map_itemsize=4,
    contrast_rows=(1, 1, 3),
    with_cov=True,
)


@st.composite
def random_parts(draw):
    """Columns of Z in 1, 2, 4, ... rows, growing as they do, and entries of D."""
    columns = draw(st.lists(st.integers(0, 50), min_size=1, max_size=10))
    return {
        "columns_of_rows": tuple(np.cumsum(columns).tolist()),
        "n_variances": draw(st.integers(1, 12)),
    }


@st.composite
def any_sizes(draw):
    n_values = draw(st.integers(1, 10**7))
    p = draw(st.integers(1, 60))
    mixed = draw(st.none() | random_parts())
    return Sizes(
        n_images=draw(st.integers(p + 1, 10**5)),
        n_params=p,
        n_voxels=draw(st.integers(1, n_values)),
        n_values=n_values,
        image_itemsize=draw(st.sampled_from([1, 2, 4, 8])),
        staged_itemsize=draw(st.sampled_from([4, 8])),
        map_itemsize=draw(st.sampled_from([4, 8])),
        contrast_rows=tuple(draw(st.lists(st.integers(1, p), min_size=1, max_size=4))),
        with_cov=draw(st.booleans()),
        is_compressed=draw(st.booleans()),
        **(mixed or {}),
    )


memory = st.integers(2**16, 2**38)
wished = st.none() | st.integers(1, 10**5)


def least_memory(sizes, **options):
    """Return what a refused plan says is the least memory that works."""
    with pytest.raises(InputError) as error:
        plan_run(sizes, 1, **options)
    return int(re.search(r"the least that works is (\d+)", str(error.value)).group(1))


def plan_or_discard(sizes, max_bytes, **options):
    try:
        return plan_run(sizes, max_bytes, **options)
    except InputError:
        assume(False)


@given(any_sizes(), memory, wished, wished, st.none() | st.integers(1, 100))
def test_batches_and_blocks_cover_everything_once(sizes, max_bytes, images, voxels, most):
    plan = plan_or_discard(
        sizes,
        max_bytes,
        images_per_batch=images,
        voxels_per_block=voxels,
        max_blocks=most,
    )
    for size, number, total in [
        (plan.images_per_batch, plan.n_batches, sizes.n_images),
        (plan.voxels_per_block, plan.n_blocks, sizes.n_voxels),
    ]:
        assert 1 <= size <= total
        assert (number - 1) * size < total <= number * size
    assert plan.rows_per_chunk >= 1


@given(any_sizes(), memory)
def test_every_plan_fits_into_the_memory_that_it_was_made_for(sizes, max_bytes):
    plan = plan_or_discard(sizes, max_bytes)
    base = min(BASE_BYTES, max_bytes // 4)
    assert base + max(plan.products_bytes, plan.block_bytes) <= max_bytes


@given(any_sizes(), st.integers(4 * BASE_BYTES, 2**38), st.integers(1, 64))
def test_a_node_stays_within_the_memory_with_as_many_threads_as_it_permits(
    sizes, max_bytes, wanted
):
    plan = plan_or_discard(sizes, max_bytes)
    n_threads = plan.threads(wanted, max_bytes)
    assert 1 <= n_threads <= wanted
    assert plan.block_bytes + BASE_BYTES <= plan.node_bytes(n_threads) <= max_bytes
    if n_threads < wanted:
        assert plan.node_bytes(n_threads + 1) > max_bytes


@given(any_sizes(), memory, wished, wished, st.none() | st.integers(1, 100))
def test_no_wish_makes_a_plan_exceed_the_memory(sizes, max_bytes, images, voxels, most):
    plan = plan_or_discard(
        sizes,
        max_bytes,
        images_per_batch=images,
        voxels_per_block=voxels,
        max_blocks=most,
    )
    base = min(BASE_BYTES, max_bytes // 4)
    assert base + max(plan.products_bytes, plan.block_bytes) <= max_bytes


@given(any_sizes(), memory, st.integers(1, 200))
def test_threads_fit_into_memory_and_there_is_at_least_one(sizes, max_bytes, wanted):
    plan = plan_or_discard(sizes, max_bytes)
    threads = plan.threads(wanted, max_bytes)
    assert 1 <= threads <= wanted
    base = min(BASE_BYTES, max_bytes // 4)
    assert base + plan.products_bytes + (threads - 1) * plan.thread_bytes <= max_bytes
    if threads < wanted:
        assert base + plan.products_bytes + threads * plan.thread_bytes > max_bytes


@given(any_sizes(), memory)
def test_a_plan_is_a_pure_function(sizes, max_bytes):
    assert plan_or_discard(sizes, max_bytes) == plan_run(sizes, max_bytes)


@given(any_sizes())
def test_the_least_memory_named_works(sizes):
    least = least_memory(sizes)
    assert isinstance(plan_run(sizes, least), Plan)


@given(any_sizes(), wished)
def test_the_least_memory_named_works_with_batches_of_any_size(sizes, images):
    least = least_memory(sizes, images_per_batch=images)
    assert isinstance(plan_run(sizes, least, images_per_batch=images), Plan)


@given(any_sizes())
def test_the_least_memory_named_is_not_generous(sizes):
    with pytest.raises(InputError):
        plan_run(sizes, least_memory(sizes) - 1)


@given(any_sizes(), memory, memory)
def test_what_works_in_less_memory_works_in_more_and_needs_no_more_batches(sizes, one, other):
    less, more = sorted(least_memory(sizes) + more for more in (one, other))
    plan = plan_run(sizes, less)
    assert plan_run(sizes, more).n_batches <= plan.n_batches


@given(any_sizes(), memory, memory)
def test_blocks_do_not_depend_on_the_contrasts(sizes, more, seed):
    max_bytes = least_memory(sizes) + more
    plan = plan_run(sizes, max_bytes)
    other = plan_run(sizes._replace(contrast_rows=(1,) * (seed % 7 + 1)), max_bytes)
    assert other[:5] == plan[:5]


@given(any_sizes(), memory, st.integers(1, 100))
def test_max_blocks_bounds_the_blocks_where_memory_permits(sizes, max_bytes, most):
    plan = plan_or_discard(sizes, max_bytes, max_blocks=most)
    free = plan_run(sizes, 2**50, max_blocks=most)
    assert free.n_blocks <= most
    assert plan.n_blocks >= free.n_blocks


def test_a_hundred_thousand_images_of_a_million_voxels_are_planned_without_data():
    sizes = ALL._replace(n_images=100_000, n_voxels=1_000_000, n_values=1_000_000)
    plan = plan_run(sizes, 8 * GIB)
    assert 1 < plan.n_batches < 1000  # each batch costs a process
    assert 1 < plan.n_blocks < 1000
    assert max(plan.products_bytes, plan.block_bytes) <= 8 * GIB


def test_memory_grows_with_the_rows_of_the_design_and_not_with_the_images():
    few = plan_run(ALL._replace(n_images=5_000), 4 * GIB)
    many = plan_run(ALL._replace(n_images=100_000), 4 * GIB)
    design = 95_000 * 8 * (2 * ALL.n_params + 1)  # X, Q and the direction of a constant
    # Batches are made even, so their size may differ a little.
    assert many.products_bytes - design == pytest.approx(few.products_bytes, rel=0.1)
    assert many.block_bytes - design == pytest.approx(few.block_bytes, rel=0.1)


def test_a_million_images_of_a_million_voxels_have_hundreds_of_nodes_and_not_thousands():
    sizes = ALL._replace(n_images=1_000_000, n_voxels=1_000_000, n_values=4_000_000)
    plan = plan_run(sizes, 4 * GIB)
    assert plan.n_batches <= MOST_NODES
    assert plan.n_blocks <= MOST_NODES
    columns = tuple(min(2**step // 5 + 2, 200_000) for step in range(21))
    mixed = sizes._replace(columns_of_rows=columns, n_variances=1)
    # Z'y of one batch at all voxels, and of all batches in one block, need more memory.
    plan = plan_run(mixed, 16 * GIB)
    assert plan.n_batches <= MOST_NODES
    assert plan.n_blocks <= MOST_NODES


def test_a_small_study_is_one_batch_and_one_block():
    plan = plan_run(ALL._replace(n_voxels=1000), 4 * GIB)
    assert (plan.n_batches, plan.n_blocks) == (1, 1)
    assert plan.images_per_batch == 200


def test_sizes_asked_for_are_used():
    plan = plan_run(ALL, 4 * GIB, images_per_batch=7, voxels_per_block=1001)
    assert (plan.images_per_batch, plan.n_batches) == (7, 29)
    assert (plan.voxels_per_block, plan.n_blocks) == (1001, 200)


def test_too_little_memory_is_refused_with_all_numbers():
    with pytest.raises(InputError, match=r"max_bytes is 5,000 bytes.*200000 voxels.*5 columns"):
        plan_run(ALL, 5000)


# -- Minutes per job -----------------------------------------------------------------------

minutes = st.floats(0.01, 1000)


@given(any_sizes(), minutes)
def test_there_are_no_more_jobs_than_the_work_has_times_the_target(sizes, target):
    plan = plan_run(sizes, 2**60, minutes_per_job=target)
    reading = predict_reading_s(sizes, sizes.n_images) / 60
    fitting = predict_fitting_s(sizes, sizes.n_voxels) / 60
    assert plan.n_batches <= max(1, reading / target)
    assert plan.n_blocks <= max(1, fitting / target)


@given(any_sizes(), memory, minutes)
def test_a_target_keeps_to_the_memory(sizes, max_bytes, target):
    plan = plan_or_discard(sizes, max_bytes, minutes_per_job=target)
    base = min(BASE_BYTES, max_bytes // 4)
    assert base + max(plan.products_bytes, plan.block_bytes) <= max_bytes


@given(any_sizes(), minutes, minutes)
def test_a_longer_target_never_makes_more_jobs(sizes, one, other):
    shorter, longer = sorted((one, other))
    few = plan_run(sizes, 2**60, minutes_per_job=longer)
    many = plan_run(sizes, 2**60, minutes_per_job=shorter)
    assert few.n_batches <= many.n_batches
    assert few.n_blocks <= many.n_blocks


@pytest.mark.parametrize("target", [1, 5])
def test_jobs_take_about_as_long_as_asked_for_where_there_is_enough_work(target):
    columns = tuple(min(2**step // 5 + 2, 200_000) for step in range(21))
    sizes = ALL._replace(n_images=1_000_000, columns_of_rows=columns, n_variances=1)
    plan = plan_run(sizes, 2**50, minutes_per_job=target)
    assert plan.n_batches > 1
    assert plan.n_blocks > 1
    # What is left over by whole jobs is shared among them: less than one target each.
    assert target <= predict_reading_s(sizes, plan.images_per_batch) / 60 < 2 * target
    assert target <= predict_fitting_s(sizes, plan.voxels_per_block) / 60 < 2 * target


@pytest.mark.parametrize("target", [1e-9, 5e-324])
def test_a_tiny_target_leaves_the_plan_with_jobs_that_are_worth_their_start(target):
    assert plan_run(ALL, 4 * GIB, minutes_per_job=target) == plan_run(ALL, 4 * GIB)


def test_sizes_asked_for_come_before_the_target():
    plan = plan_run(ALL, 4 * GIB, 7, 1001, minutes_per_job=60)
    assert (plan.images_per_batch, plan.voxels_per_block) == (7, 1001)


def test_plain_images_are_read_in_larger_batches_than_compressed_ones():
    sizes = ALL._replace(n_images=100_000)
    compressed = plan_run(sizes, 2**50, minutes_per_job=1)
    plain = plan_run(sizes._replace(is_compressed=False), 2**50, minutes_per_job=1)
    assert plain.images_per_batch > compressed.images_per_batch


# -- Mixed models --------------------------------------------------------------------------

MIXED = ALL._replace(columns_of_rows=(2, 2, 2, 4, 6, 10, 18, 34, 50), n_variances=3)


@st.composite
def any_factors(draw):
    """One to three factors with up to three effects, for up to 40 observations."""
    n_obs = draw(st.integers(1, 40))
    factors = []
    for name in draw(st.sampled_from(["a", "ab", "abc"])):
        labels = draw(st.lists(st.integers(0, 12), min_size=n_obs, max_size=n_obs))
        level = np.unique(labels, return_inverse=True)[1].astype(np.int32)
        factors.append(RandomFactor(name, level, np.ones((n_obs, draw(st.integers(1, 3))))))
    return factors


@given(any_factors())
def test_columns_of_rows_are_the_most_that_any_such_rows_use(factors):
    n_obs = len(factors[0].level)

    def most(n_rows):
        starts = range(n_obs - n_rows + 1)
        return max(select_rows(factors, slice(s, s + n_rows)).columns.size for s in starts)

    found = count_columns_of_rows(factors)
    assert found == tuple(most(min(2**step, n_obs)) for step in range(len(found)))
    assert found[-1] == count_columns(factors)


@given(any_factors(), st.integers(1, 40))
def test_no_batch_has_more_columns_than_the_plan_expects(factors, batch):
    n_obs = len(factors[0].level)
    sizes = MIXED._replace(n_images=n_obs, columns_of_rows=count_columns_of_rows(factors))
    for start in range(0, n_obs, batch):
        used = select_rows(factors, slice(start, start + batch)).columns.size
        assert used <= sizes.most_columns(batch) <= count_columns(factors)


def test_sorted_levels_cost_less_memory_than_scattered_ones():
    level = np.repeat(np.arange(500, dtype=np.int32), 4)
    shuffled = np.random.default_rng(0).permutation(level)

    def cost(levels):
        factor = RandomFactor("subject", levels, np.ones((2000, 1)))
        sizes = ALL._replace(
            n_images=2000, columns_of_rows=count_columns_of_rows([factor]), n_variances=1
        )
        return plan_run(sizes, 64 * GIB, images_per_batch=256).products_bytes

    assert cost(level) < 0.5 * cost(shuffled)


def test_a_mixed_model_of_many_levels_is_planned_in_small_blocks():
    columns = tuple(min(2**step, 25_000) for step in range(18))
    sizes = ALL._replace(n_images=100_000, columns_of_rows=columns, n_variances=1)
    plan = plan_run(sizes, 8 * GIB)
    assert max(plan.products_bytes, plan.block_bytes) <= 8 * GIB
    # All of Z'y at one voxel is 25,000 numbers.
    assert plan.block_bytes >= plan.voxels_per_block * 8 * 25_000
    assert plan.disk_bytes >= sizes.n_voxels * 8 * 25_000


def test_too_little_memory_for_a_mixed_model_names_the_columns_of_z():
    with pytest.raises(InputError, match=r"200000 voxels, 50 columns of Z and 5 columns of X"):
        plan_run(MIXED, 5000)


# -- Nodes that run at the same time -------------------------------------------------------


@pytest.mark.parametrize("parallel_nodes", [2, 5, 16])
def test_every_worker_has_a_batch_and_a_block_if_there_is_work_for_it(parallel_nodes):
    plan = plan_run(ALL._replace(n_images=20_000), 2**33, parallel_nodes=parallel_nodes)
    assert plan.n_batches >= parallel_nodes
    mixed = ALL._replace(n_images=9_000, columns_of_rows=(1, 20, 400), n_variances=6)
    assert plan_run(mixed, 2**33, parallel_nodes=parallel_nodes).n_blocks >= parallel_nodes


def test_a_small_study_is_not_cut_up_for_many_workers():
    plan = plan_run(ALL._replace(n_images=20, n_voxels=1000), 2**33, parallel_nodes=100)
    assert (plan.n_batches, plan.n_blocks) == (1, 1)


def test_the_length_of_jobs_counts_more_than_the_number_of_workers():
    sizes = ALL._replace(n_images=20_000)
    plans = [plan_run(sizes, 2**33, minutes_per_job=1e6, parallel_nodes=n) for n in (1, 50)]
    assert plans[0] == plans[1]


@given(any_sizes(), memory, wished, st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_batches_that_stay_are_followed_by_those_of_all_other_images(
    sizes, max_bytes, images, kept
):
    assume(sum(kept) <= sizes.n_images)
    plan = plan_or_discard(sizes, max_bytes, images_per_batch=images, kept=kept)
    assert plan.batches[: len(kept)] == tuple(kept)
    assert sum(plan.batches) == sizes.n_images
    assert min(plan.batches) > 0
    assert (plan.n_batches, plan.images_per_batch) == (len(plan.batches), max(plan.batches))
    base = min(BASE_BYTES, max_bytes // 4)
    assert base + max(plan.products_bytes, plan.block_bytes) <= max_bytes


def test_a_batch_that_stays_needs_memory_though_all_others_are_smaller():
    large = least_memory(ALL, images_per_batch=8, kept=[192])
    assert large > least_memory(ALL, images_per_batch=8)
    assert can_keep(ALL, large, 192)
    assert not can_keep(ALL, large // 2, 192)


def test_many_small_batches_of_a_mixed_model_have_a_word_each():
    mixed = ALL._replace(n_images=400, columns_of_rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 400))
    few = plan_run(mixed, 4 * GIB, kept=[400])
    many = plan_run(mixed, 4 * GIB, kept=[200] + [1] * 200)
    assert many.block_bytes / many.voxels_per_block > few.block_bytes / few.voxels_per_block


def test_disk_for_values_by_voxel_is_planned_and_nothing_else_changes():
    plain, with_tiles = (plan_run(ALL._replace(with_tiles=w), GIB) for w in (False, True))
    assert plain.tiles_bytes == 0
    values = ALL.n_images * ALL.n_voxels * ALL.staged_itemsize
    assert values < with_tiles.tiles_bytes < 1.05 * values
    changes = {"disk_bytes": plain.disk_bytes + with_tiles.tiles_bytes}
    assert with_tiles == plain._replace(tiles_bytes=with_tiles.tiles_bytes, **changes)
