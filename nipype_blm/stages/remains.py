"""What is there of a run: of an earlier one when it starts, and of itself while it goes on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, is_empty, is_whole
from nipype_blm.stages.estimates import count_candidates
from nipype_blm.stages.plan import PreparedRun


class Remains:
    """The intermediate files of a run, which may be there or not.

    Parameters
    ----------
    run : PreparedRun
    products_files, estimates_files : sequences of Path
        Of all batches, and of all blocks.
    """

    def __init__(
        self, run: PreparedRun, products_files: Sequence[Path], estimates_files: Sequence[Path]
    ) -> None:
        self._spec = run.spec
        self.n_resamplings: list[int] = []
        self._products = list(zip(products_files, run.stamps.batches, strict=True))
        self._estimates = list(zip(estimates_files, run.stamps.blocks, strict=True))
        self.n_images = [
            len(range(*run.spec.batch(i).indices(run.spec.n_obs)))
            for i in range(len(products_files))
        ]

    def find_batches(self) -> set[int]:
        """Return the numbers of the batches that need not be read again."""
        found = _find_whole(self._products)
        if len(found) < len(self._products):  # what is to be fitted needs all
            found = {i for i in found if not is_empty(self._products[i][0])}
        return found

    def find_blocks(self) -> set[int]:
        """Return the numbers of the blocks that need not be fitted again."""
        return _find_whole(self._estimates)

    def count_voxels(self) -> list[int]:
        """Return how many voxels of each block are to be fitted; all of them as long as none knows.

        It is known when all images have been read.
        """
        n_obs = self._count_images()
        return [self._count_block(i, n_obs) for i in range(len(self._estimates))]

    def _count_images(self) -> NDArray[np.int32] | None:
        """Return the images with data at each voxel; None if not all batches have them."""
        n_obs = np.zeros(self._spec.n_voxels, np.int32)
        try:
            for path, stamp in self._products:
                n_obs += ArrayFile(path, stamp).read("n_obs")
        except (OSError, InputError, KeyError):  # KeyError: of a file that is empty
            return None
        return n_obs

    def _count_block(self, block: int, n_obs: NDArray[np.int32] | None) -> int:
        columns = self._spec.block(block)
        path, stamp = self._estimates[block]
        if n_obs is not None:
            return count_candidates(self._spec, block, n_obs[columns])
        try:
            return count_candidates(self._spec, block, ArrayFile(path, stamp).read("n_obs"))
        except (OSError, InputError):
            return int(columns.stop - columns.start)


def _find_whole(files: Sequence[tuple[Path, str]]) -> set[int]:
    return {
        number
        for number, (path, stamp) in enumerate(files)
        if is_whole(path) and ArrayFile(path).stamp == stamp
    }
