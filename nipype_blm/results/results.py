"""What one run left in its folder: configuration, design, random factors and maps."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.kinds import look_at, open_space, read_mask
from nipype_blm.data.maps import EXTENSIONS, find_map
from nipype_blm.errors import InputError, Problems
from nipype_blm.io.yamlfile import read_yaml
from nipype_blm.model.config import BlmConfig, BlmmConfig, ModelConfig, parse_config
from nipype_blm.model.random import check_factors, make_factors
from nipype_blm.stages.images import list_files
from nipype_blm.stages.rows import name_images, read_rows, sort_rows


class Results:
    """The results of one run of ``blm`` or ``blmm``.

    Parameters
    ----------
    folder : Path
        The outdir of the run.

    Raises
    ------
    InputError
        If the folder is not that of a run that has ended, or what the run read has gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.config = self._read_config()
        self.prefix = f"{'blmm' if isinstance(self.config, BlmmConfig) else 'blm'}_vox_"
        self.space = open_space(self.path("llh"))  # all values of a map
        self.X, self.factors = self._read_rows()

    def _read_config(self) -> ModelConfig:
        path = self.folder / "inputs.yml"
        if not path.is_file():
            what = "has no inputs.yml" if self.folder.is_dir() else "is not a folder"
            raise InputError(
                f"{self.folder} {what}; expected the outdir of a run of blm or blmm, which "
                "writes its maps and inputs.yml there."
            )
        data = read_yaml(path)
        is_mixed = isinstance(data, dict) and data.get("Z") is not None
        try:
            return parse_config(data, self.folder, model=BlmmConfig if is_mixed else BlmConfig)
        except InputError as error:
            raise InputError(f"{path}: {problem}" for problem in error.problems) from error

    def _read_rows(self) -> tuple[FloatArray, Sequence[RandomFactor]]:
        """Return X and the random factors, with a row for each image."""
        problems = Problems()
        rows = read_rows(self.config, problems)
        images = [item.path for item in list_files(self.config.Y_files, "Y_files")]
        rows = sort_rows(self.config, rows, name_images(images), problems)
        random = [factor for factor in rows.random if factor is not None]
        if rows.X is None or problems:
            raise InputError(problems)
        if isinstance(self.config, BlmmConfig):
            faults = check_factors(random, len(rows.X.values), safe_mode=self.config.safeMode)
            if faults:
                raise InputError(f"{self.folder / 'inputs.yml'}: {fault}" for fault in faults)
        return rows.X.values, make_factors(random)

    @property
    def criterion(self) -> str | None:
        """What was maximised; None without random effects, where one follows from the other."""
        if not isinstance(self.config, BlmmConfig):
            return None
        return "REML" if self.config.reml else "ML"

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where the model was fitted, in file order."""
        return read_mask(self.path("mask"), look_at(self.path("llh"))[1], "The mask")

    def find(self, name: str) -> Path | None:
        """Return the file of a map, if there is one."""
        return find_map(self.folder, f"{self.prefix}{name}")

    def path(self, name: str) -> Path:
        """Return the file of a map."""
        found = self.find(name)
        if found is None:
            raise InputError(
                f"{self.folder} has no {self.prefix}{name}{' or '.join(EXTENSIONS)}; expected the "
                "outdir of a run that has ended; run it again."
            )
        return found

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of the values of a map."""
        return look_at(self.path(name))[1].dtype

    def read(self, name: str, voxels: NDArray[np.bool_]) -> FloatArray:
        """Return a map at the voxels of a mask, NaN where it is not finite."""
        return self.read_volumes(name, voxels, [0], np.dtype(float))[0]

    def read_volumes(
        self,
        name: str,
        voxels: NDArray[np.bool_],
        volumes: Sequence[int],
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Return volumes of a map at the voxels of a mask; ascending ones are read in one pass."""
        path = self.path(name)
        reader = open_space(self.path("llh"), voxels).make_reader(zero_is_missing=False)
        values = np.empty((len(volumes), np.count_nonzero(voxels)), dtype)
        for row, volume in zip(values, volumes, strict=True):
            reader.read(path, volume, row)
        return values


def list_differences(one: Results, other: Results) -> list[str]:
    """Return what two runs do not have in common although the comparison needs it."""
    problems = [
        *_compare_lists(one, other, "Y_files", "images"),
        *_compare_lists(one, other, "data_mask_files", "masks"),
        *_compare_designs(one, other),
    ]
    for field in ("data_mask_thresh", "zero_is_missing"):
        values = [getattr(run.config, field) for run in (one, other)]
        if values[0] != values[1]:
            problems.append(
                f"{field} is {values[0]} in {one.folder}, but {values[1]} in {other.folder}; "
                "both models need the same data."
            )
    if None not in (one.criterion, other.criterion) and one.criterion != other.criterion:
        problems.append(
            f"{one.folder} was fitted by {one.criterion}, but {other.folder} by "
            f"{other.criterion}; fit both with the same reml."
        )
    difference = one.space.describe_difference(other.space)
    if difference is not None:
        problems.append(
            f"The maps of {other.folder} are not on the grid of those of {one.folder}: "
            f"{difference}."
        )
    return problems


def _compare_lists(one: Results, other: Results, field: str, what: str) -> list[str]:
    """Compare the files that a field names, in order."""
    lists = [_read_list(run, field) for run in (one, other)]
    if lists[0] != lists[1]:
        lists = [[path.resolve() for path in paths] for paths in lists]
    if lists[0] == lists[1]:
        return []
    if len(lists[0]) != len(lists[1]):
        reason = f"{len(lists[0])} and {len(lists[1])} {what}"
    elif sorted(lists[0]) == sorted(lists[1]):
        reason = f"the same {what} in different orders"
    else:
        pair = next(pair for pair in zip(*lists, strict=True) if pair[0] != pair[1])
        reason = f"different {what}, such as {pair[0]} and {pair[1]}"
    return [
        f"{field} of {one.folder} and {other.folder} name {reason}; both models need the same data."
    ]


def _read_list(run: Results, field: str) -> list[Path]:
    given = getattr(run.config, field)
    return [] if given is None else [item.path for item in list_files(given, field)]


def _compare_designs(one: Results, other: Results) -> list[str]:
    if one.X.shape != other.X.shape:
        sizes = [f"{len(run.X)} rows and {run.X.shape[1]} columns" for run in (one, other)]
        reason = " and ".join(sizes)
    else:
        # The same numbers may have been printed with other digits.
        differs = np.argwhere(~np.isclose(one.X, other.X, rtol=1e-12, atol=0))
        if not differs.size:
            return []
        i, j = differs[0]
        reason = (
            f"{one.X[i, j]:.15g} and {other.X[i, j]:.15g} in row {i + 1}, column {j + 1} of the "
            "numbers"
        )
    return [
        f"X of {one.folder} and of {other.folder} differ: {reason}; a comparison of random "
        "effects needs the same X in both."
    ]
