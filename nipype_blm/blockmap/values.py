"""The values of a block: what an output takes, and how they are written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import Block, find_region
from nipype_blm.blockmap.functions import ReturnError
from nipype_blm.blockmap.images import open_boss, open_target, send_boss
from nipype_blm.blockmap.outputs import Output
from nipype_blm.blockmap.plan import Plan
from nipype_blm.io.files import replacing


def fit_type(values: NDArray[Any], output: Output) -> NDArray[Any]:
    """Return values as an output holds them; real numbers may be rounded, nothing else.

    Raises
    ------
    ReturnError
        If it cannot hold them.
    """
    target = np.dtype(output.dtype)
    if values.dtype == target:
        return values
    if values.dtype.kind not in "biuf":
        raise ReturnError(
            f"{output.name} is an array of {values.dtype}; expected whole or real numbers"
        )
    with np.errstate(all="ignore"):
        converted = values.astype(target)
        if values.dtype.kind == target.kind == "f":
            differs = np.isinf(converted) & np.isfinite(values)
        else:
            # There and back: else both would be compared as reals, which hold few large numbers.
            differs = (converted != values) | (converted.astype(values.dtype) != values)
    if differs.any():
        raise ReturnError(
            f"{output.name} has the value {values[differs].flat[0]}, which {target} cannot hold; "
            f"give outputs: {{{output.name}: {{dtype: ...}}}}"
        )
    return converted


def check_shape(values: NDArray[Any], block: Block, output: Output) -> bool:
    """Return whether an array has the halo, too.

    Raises
    ------
    ReturnError
        If it has neither the shape of what was read nor that of the block.
    """
    if values.shape == block.read_shape:
        return True
    if values.shape == block.shape:
        return False
    expected = {block.read_shape, block.shape}
    raise ReturnError(
        f"{output.name} has the shape {values.shape}; expected z, y, x of the block, "
        f"{' or '.join(map(str, sorted(expected)))}"
    )


class Writer:
    """Writes what a function has returned for blocks.

    Parameters
    ----------
    plan : Plan
    outputs : mapping of str to Output
    """

    def __init__(self, plan: Plan, outputs: Mapping[str, Output]) -> None:
        self._plan, self._outputs = plan, outputs
        self._targets: dict[str, Any] = {}

    def check(self, arrays: Mapping[str, NDArray[Any]], block: Block) -> dict[str, NDArray[Any]]:
        """Return arrays as outputs hold them: of outputs where blocks overlap with the halo.

        Raises
        ------
        ReturnError
            If they do not fit.
        """
        if set(arrays) != set(self._outputs):
            raise ReturnError(
                f"the function returned {', '.join(sorted(arrays)) or 'no array'}; expected "
                f"{', '.join(sorted(self._outputs)) or 'none'}, as of other blocks or in outputs"
            )
        checked = {}
        for name, values in arrays.items():
            output = self._outputs[name]
            has_halo = check_shape(values, block, output)
            if output.merge == "crop" and has_halo:
                values = values[block.core]
            checked[name] = fit_type(values, output)
        return checked

    def write(self, arrays: Mapping[str, NDArray[Any]], block: Block) -> None:
        """Write what `check` has returned; where that is nothing, outputs keep their fill.

        What an earlier try has left of such a block goes, but for voxels of a BOSS.
        """
        for name, output in self._outputs.items():
            values = arrays.get(name)
            if values is None and output.kind == "boss" and output.is_direct:
                continue
            if values is None:
                shape = block.shape if output.is_direct else (0, 0, 0)
                values = np.full(shape, output.fill, output.dtype)
            if not output.is_direct:
                _write_part(self._plan.paths.find_parts(name), values, block)
            elif output.kind == "boss":
                self._write_boss(output, values, block)
            else:
                region = find_region(block.start, block.stop, self._plan.grid.start)
                self._open(output)[region] = values

    def _open(self, output: Output) -> Any:
        if output.name not in self._targets:
            self._targets[output.name] = open_target(self._plan, output)
        return self._targets[output.name]

    def _write_boss(self, output: Output, values: NDArray[Any], block: Block) -> None:
        if output.name not in self._targets:
            self._targets[output.name] = open_boss(self._plan, output)
        send_boss(self._plan, output, self._targets[output.name], block.start, values)


def _write_part(folder: Path, values: NDArray[Any], block: Block) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.ascontiguousarray(values)
    with replacing(folder / f"{block.key}.npy") as file:
        # Not `np.save`, which does not say of a full disk that it is one.
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)
