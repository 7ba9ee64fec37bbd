"""What a run costs: CPU time of each stage on one core, from measured unit costs.

They are those of brain images with ragged edges: at the outer voxels some images miss data.
Where none does, mixed models of many images take down to a fifth of it.  Crossed factors take
up to eight times as much where images are missing.  Time spent waiting for a disk is not
counted.
"""

from typing import NamedTuple

from nipype_blm.core.linalg import packed_size

# Seconds of one core of an AMD EPYC, of 2026-11-20, with images in the page cache.  Fitted to
# runs of 200 to 5,000 images and 3 to 30 columns of X, as tests/benchmarks/bench_planning.py
# measures them, and to results/lmm_scaling.json there: within a factor of 2 where not said above.
GZIP_S_PER_BYTE = 0.65e-9  # of the voxels, decompressed; brains with zeros around them
PLAIN_S_PER_BYTE = 0.08e-9
STAGED_S_PER_VALUE = 1.2e-9  # picked from the image, compared, centred
PRODUCT_S_PER_VALUE = 0.075e-9  # for each value and column of X
ZTY_S_PER_VALUE = 20e-9  # of Z'y: summed and written, for each column of Z and voxel
VOXEL_S = 0.2e-6
GRAM_S_PER_IMAGE = 0.03e-9  # X'X of the images present, for each of its entries
COVARIANCE_S = 0.034e-6  # for each entry of cov(beta): computed and written
# Of a mixed model, for each variance parameter:
SEARCH_S = 5e-6
SEARCH_S_PER_CUBE = 4.5e-9  # for each of p^3 for p columns of X
SEARCH_S_PER_VALUE = 1e-9  # for each value of X, where images are missing
TEST_S = 0.1e-6  # for each row of a contrast
TEST_S_PER_COLUMN = 0.01e-6
TEST_S_PER_GRADIENT = 1.5e-9  # of a mixed model: change of cov(beta) with each variance
MAP_S_PER_BYTE = 0.8e-9


class Sizes(NamedTuple):
    """What the cost of a run depends on."""

    n_images: int
    n_params: int
    n_voxels: int  # inside the analysis mask
    n_values: int  # of an image; in a volume, voxels
    image_itemsize: int  # bytes of one value in the files (the largest)
    staged_itemsize: int  # 4 or 8: precision in which values are staged
    map_itemsize: int  # 4 or 8: precision of the maps
    contrast_rows: tuple[int, ...]  # rows of each contrast
    with_cov: bool
    is_compressed: bool = True  # whether there are images in gzip format
    with_tiles: bool = False  # whether the values of all images are written by voxel
    # Of a mixed model only.
    columns_of_rows: tuple[int, ...] = ()  # as `count_columns_of_rows` returns it
    n_variances: int = 0  # entries of vech(D) of all factors
    n_words: int = 0  # of presence bits at a voxel, at least

    @property
    def is_mixed(self) -> bool:
        """Whether there are random effects."""
        return bool(self.columns_of_rows)

    @property
    def n_raneffs(self) -> int:
        """Columns of Z."""
        return self.columns_of_rows[-1] if self.is_mixed else 0

    def most_columns(self, n_rows: int) -> int:
        """Return a number of columns of Z that no `n_rows` consecutive rows exceed."""
        step = (n_rows - 1).bit_length()
        return self.columns_of_rows[: step + 1][-1] if self.is_mixed else 0


def predict_reading_s(sizes: Sizes, n_images: int) -> float:
    """Return the CPU seconds to read images and reduce them to products.

    Notes
    -----
    Each image is decompressed whole, its voxels inside the mask are staged, and each of them
    is multiplied with a row of X.  Z'y is written once, so that it costs by its columns.
    """
    per_byte = GZIP_S_PER_BYTE if sizes.is_compressed else PLAIN_S_PER_BYTE
    per_value = STAGED_S_PER_VALUE + PRODUCT_S_PER_VALUE * sizes.n_params
    image = sizes.n_values * sizes.image_itemsize * per_byte + sizes.n_voxels * per_value
    columns_per_image = sizes.n_raneffs / sizes.n_images
    return n_images * (image + sizes.n_voxels * columns_per_image * ZTY_S_PER_VALUE)


def predict_fitting_s(sizes: Sizes, n_voxels: int) -> float:
    """Return the CPU seconds to fit voxels, without contrasts.

    Notes
    -----
    With p columns of X, g = p (p + 1) / 2 entries of X'X, n images and v variance parameters,
    a voxel costs a constant, g n where images are missing, and g for cov(beta); a mixed model
    costs v, v p^3, and v p n where images are missing, for the search of its maximum.
    """
    n, p, v = sizes.n_images, sizes.n_params, sizes.n_variances
    per_entry = GRAM_S_PER_IMAGE * n + COVARIANCE_S * sizes.with_cov
    linear = VOXEL_S + per_entry * packed_size(p)
    search = SEARCH_S + SEARCH_S_PER_CUBE * p**3 + SEARCH_S_PER_VALUE * p * n
    return n_voxels * (linear + v * search)


def predict_testing_s(sizes: Sizes, n_voxels: int) -> float:
    """Return the CPU seconds to test all contrasts at voxels that were fitted."""
    p, v = sizes.n_params, sizes.n_variances
    per_row = TEST_S + TEST_S_PER_COLUMN * p
    if sizes.is_mixed:
        per_row += TEST_S_PER_GRADIENT * p**2 * (1 + v)
    return n_voxels * sum(sizes.contrast_rows) * per_row


def predict_assembly_s(map_bytes: int) -> float:
    """Return the CPU seconds to write maps without compression."""
    return map_bytes * MAP_S_PER_BYTE
