"""The one reader of a folder of results: its maps, and the model that they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.status import VoxelStatus
from nipype_blm.data.kinds import (
    describe_map_endings,
    find_map,
    load_map,
    look_at,
    open_space,
    read_mask,
)
from nipype_blm.data.maps import load_image, read_sidecar
from nipype_blm.data.space import Space
from nipype_blm.errors import InputError
from nipype_blm.results.declared import select_declared
from nipype_blm.results.maps import name_contrast_map
from nipype_blm.results.saved import SavedModel


class Results(SavedModel):
    """The results of one run of ``blm`` or ``blmm``: its maps, and the model as fitted.

    Everything comes from the folder itself, which may have been moved or copied, and may be
    read-only; images, design and configuration may be gone.  Nothing is written.

    Parameters
    ----------
    folder : path
        The outdir of the run.

    Attributes
    ----------
    model : str
        ``blm`` or ``blmm``.
    options, versions : dict
        What the estimates depend on, and what computed them.
    notices : list of str
        What to know of the result.
    X, column_names
        The design matrix, of shape (n_obs, n_params), and the names of its columns.
    factors, effect_names, level_names
        The random factors, the names of their effects, and the labels of their levels.
    images : tuple of SavedImage
        One for each row of X, with path, volume, size and time; ``pandas.DataFrame(images)``
        makes a table of them.

    Raises
    ------
    InputError
        If the folder is not that of a run that has ended, or not all of it.

    Examples
    --------
    >>> from nipype_blm import Results
    >>> results = Results("results")  # doctest: +SKIP
    >>> beta = results.array("beta")  # doctest: +SKIP
    >>> age = results.image("beta", "age")  # doctest: +SKIP
    >>> z = results.contrasts["age"].image("z")  # doctest: +SKIP
    """

    def __repr__(self) -> str:
        """Return what was fitted, and where the results are."""
        names = ", ".join(self.contrasts)
        return (
            f"<Results of {self.model} in {self.folder}: {len(self.images)} images, "
            f"{len(self.column_names)} columns of X, {self.n_fitted} voxels; contrasts: {names}>"
        )

    @property
    def prefix(self) -> str:
        """With which the names of maps begin."""
        return f"{self.model}_vox_"

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the maps of the whole run that are there, such as ``beta``."""
        names = (each.name for each in select_declared(self.model))
        return tuple(name for name in names if self.find(name) is not None)

    @cached_property
    def contrasts(self) -> "Contrasts":
        """The contrasts by their names, in their order."""
        found = (
            ContrastResults(self, each.name, each.label, each.is_f, each.matrix)
            for each in self.saved_contrasts
        )
        return Contrasts({each.name: each for each in found})

    def find(self, name: str) -> Path | None:
        """Return the file of a map, with or without its prefix, if there is one."""
        return find_map(self.folder, self._complete(name))

    def _complete(self, name: str) -> str:
        return name if name.startswith((self.prefix, "contrasts/")) else f"{self.prefix}{name}"

    def path(self, name: str) -> Path:
        """Return the file of a map."""
        found = self.find(name)
        if found is None:
            raise InputError(
                f"{self.folder} has no {self._complete(name)}{describe_map_endings()}; expected "
                f"the outdir of a run that has ended; run it again. It has {', '.join(self.maps)}."
            )
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """Return what the JSON file beside a map says of it."""
        path = self.path(name)
        try:
            return read_sidecar(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The JSON file beside {path} cannot be read; copy all of {self.folder} again, or "
                "run it again."
            ) from error

    def image(self, name: str, volume: str | int | None = None) -> Any:
        """Return a map as an image of nibabel.

        Parameters
        ----------
        name : str
            Such as ``beta``; `maps` lists them.
        volume : str or int, optional
            Only this one of its volumes: its label, or its number from 0.
        """
        image = load_image(self.path(name))
        return image if volume is None else image.slicer[..., self._find_volume(name, volume)]

    def array(self, name: str, volume: str | int | None = None) -> NDArray[Any]:
        """Return a map as an array, of the shape of its image, or of whatever it is stored in."""
        values = load_map(self.path(name))
        return np.asarray(
            values if volume is None else values[..., self._find_volume(name, volume)]
        )

    def vector(self, name: str, volume: str | int | None = None) -> FloatArray:
        """Return one volume of a map at the voxels of the result, the features of `space`.

        Parameters
        ----------
        name : str
            Such as ``beta``; `maps` lists them.
        volume : str or int, optional
            Which of its volumes: its label, or its number from 0; needed if there are several.

        Returns
        -------
        values : array of shape (n_features,)

        Raises
        ------
        InputError
            If there is no such map, or no such volume, or several and none is named.
        """
        has_one = len(self.describe(name).get("Volumes", [])) < 2
        number = 0 if volume is None and has_one else self._find_volume(name, volume)
        return self.read_volumes(name, self.inside, [number], np.dtype(float))[0]

    def _find_volume(self, name: str, volume: str | int | None) -> int:
        """Return the number of a volume of a map."""
        labels = self.describe(name).get("Volumes", [])
        if volume in labels:
            return int(labels.index(volume))
        if isinstance(volume, int) and 0 <= volume < len(labels):
            return volume
        has = f"those of {', '.join(labels)}" if labels else "one volume only, without a label"
        if volume is None:
            raise InputError(f"{self.path(name)} has several volumes; name one: {has}.")
        raise InputError(f"{self.path(name)} has no volume {volume!r}; it has {has}.")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where the model was fitted, in the shape of the images."""
        return self.array("mask") > 0

    @cached_property
    def counts(self) -> dict[VoxelStatus, int]:
        """How many voxels have each status that occurs."""
        numbers = np.bincount(self.array("status").ravel(), minlength=256)
        return {status: int(numbers[status]) for status in VoxelStatus if numbers[status]}

    @property
    def n_fitted(self) -> int:
        """Number of voxels in the result."""
        return sum(n for status, n in self.counts.items() if status.is_fitted)

    @cached_property
    def space(self) -> Space:
        """The voxels of the result, to which vectors belong: which of them touch, for example."""
        return open_space(self.path("llh"), self.inside)

    def find_voxels(self, features: NDArray[np.intp] | slice) -> NDArray[np.bool_]:
        """Return some of the voxels of the result as a mask in file order."""
        voxels = np.zeros(self.inside.size, bool)
        voxels[self.space.positions[features]] = True
        return voxels

    def select(self, features: NDArray[np.intp]) -> Space:
        """Return the space of some of the voxels of the result, which are given ascending."""
        return open_space(self.path("llh"), self.find_voxels(features))

    def read_vector(self, path: Path, volume: int = 0) -> FloatArray:
        """Return a volume of a map that lies elsewhere, at the voxels of the result."""
        values = np.empty(self.space.n_features)
        self.space.make_reader(zero_is_missing=False).read(path, volume, values)
        return values

    @cached_property
    def whole_space(self) -> Space:
        """All values of a map."""
        return open_space(self.path("llh"))

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Where the model was fitted, in file order."""
        return read_mask(self.path("mask"), look_at(self.path("llh"))[1], "The mask")

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of the values of a map."""
        return look_at(self.path(name))[1].dtype

    def read(self, name: str, voxels: NDArray[np.bool_]) -> FloatArray:
        """Return a map at voxels, given in file order; NaN where it is not finite."""
        return self.read_volumes(name, voxels, [0], np.dtype(float))[0]

    def read_volumes(
        self,
        name: str,
        voxels: NDArray[np.bool_],
        volumes: Sequence[int],
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Return volumes of a map at voxels; ascending ones are read in one pass."""
        path = self.path(name)
        reader = open_space(self.path("llh"), voxels).make_reader(zero_is_missing=False)
        values = np.empty((len(volumes), np.count_nonzero(voxels)), dtype)
        for row, volume in zip(values, volumes, strict=True):
            reader.read(path, volume, row)
        return values


class Contrasts(dict[str, "ContrastResults"]):
    """The contrasts of a run, by name."""

    def __missing__(self, name: str) -> "ContrastResults":
        raise KeyError(f"{name!r} is no contrast of this run; it has {', '.join(self)}")


@dataclass(frozen=True, eq=False)
class ContrastResults:
    """One contrast: its weights, and its maps.

    Maps are ``effect``, ``variance``, ``stat``, ``z``, ``p`` and ``dof``.
    """

    results: Results
    name: str
    label: str  # in names of files
    is_f: bool
    weights: FloatArray  # (q, n_params)

    def __repr__(self) -> str:
        """Return what was tested."""
        return f"<{'F' if self.is_f else 'T'} contrast {self.name}: {self.weights.tolist()}>"

    def _name(self, kind: str) -> str:
        if kind == "dof" and self.results.model == "blm":  # the same for all contrasts
            return "edf"
        kind = "stat" if kind in ("t", "T", "F", "f") else kind
        try:
            return name_contrast_map(kind, self.label, self.is_f)
        except ValueError as error:
            kinds = ", ".join(each.name for each in select_declared("blmm", of_contrast=True))
            raise InputError(f"{kind!r} is no map of a contrast; it has {kinds}.") from error

    def path(self, kind: str) -> Path:
        """Return the file of a map."""
        return self.results.path(self._name(kind))

    def describe(self, kind: str) -> dict[str, Any]:
        """Return what the JSON file beside a map says of it."""
        return self.results.describe(self._name(kind))

    def image(self, kind: str, volume: str | int | None = None) -> Any:
        """Return a map as an image of nibabel; see `Results.image`."""
        return self.results.image(self._name(kind), volume)

    def array(self, kind: str, volume: str | int | None = None) -> NDArray[Any]:
        """Return a map as an array."""
        return self.results.array(self._name(kind), volume)

    def vector(self, kind: str, volume: str | int | None = None) -> FloatArray:
        """Return one volume of a map at the voxels of the result; see `Results.vector`."""
        return self.results.vector(self._name(kind), volume)

    def dtype(self, kind: str) -> np.dtype[Any]:
        """Return the type of the values of a map."""
        return self.results.dtype(self._name(kind))

    @property
    def has_gaps(self) -> bool:
        """Whether the contrast is not estimable at some voxels of the result."""
        return self.results.find(self._name("estimable")) is not None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the contrast is estimable; elsewhere its maps are 0, and no tests."""
        return self.array("estimable") > 0 if self.has_gaps else self.results.mask
