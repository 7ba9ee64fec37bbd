"""What an observation is: a vector over the features of a space, read from a file.

Whatever implements `Space` can be modelled: the voxels of a mask today, vertices of a surface or
cells of a table tomorrow.  `nipype_blm.data.kinds` says which files belong to which space.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.voxels import ValueCounts
from nipype_blm.data.manifest import ImageEntry
from nipype_blm.data.maps import MapInfo
from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.files import FileState

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Arrays = dict[str, NDArray[Any]]
Options = dict[str, Any]

NO_MASK = np.empty(0)


class Reader(Protocol):
    """Reads observations; safe in several threads."""

    def read(
        self, path: Path, volume: int, out: NDArray[Any], inside: NDArray[np.float64] = NO_MASK
    ) -> ValueCounts:
        """Read one observation into a row of floats, NaN where missing.

        Parameters
        ----------
        path : Path
        volume : int
            Number of the observation in the file, from 0.
        out : float array of shape (n_features,)
            Receives the values.
        inside : array of shape (n_features,), optional
            The observation's own mask, NaN outside.

        Raises
        ------
        InputError
            If the file is missing, damaged, or of another space.
        """


class Space(Protocol):
    """Where observations have values: the features, in the order of the files."""

    @property
    def n_features(self) -> int:
        """Length of an observation."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which of the values in a file the features are, ascending, of shape (n_features,)."""

    def make_reader(self, threshold: float = -np.inf, zero_is_missing: bool = True) -> Reader:
        """Return what reads observations; values below `threshold` are missing."""

    def write(
        self,
        path: Path,
        info: MapInfo,
        vectors: Iterable[NDArray[Any]],
        dtype: np.dtype[Any],
    ) -> None:
        """Write a map and its sidecar.

        Parameters
        ----------
        path : Path
            Ends in one of `Kind.maps`.
        info : MapInfo
        vectors : iterable of arrays of shape (n_features,)
            The volumes of the map; taken one at a time.
        dtype : dtype
            Of the values in the file.
        """

    def describe_difference(self, other: "Space") -> str | None:
        """Say in words how another space differs from this one, or None."""

    def find_coordinates(self) -> NDArray[np.float64]:
        """Return where the features are, in mm: an (n_features, 3) array."""

    @property
    def feature_size(self) -> float:
        """How large a feature is, in mm3; NaN where they have no size in common."""

    @property
    def neighbourhoods(self) -> tuple[int, ...]:
        """How many neighbours a feature can be asked to have, the default first.

        Empty where there is one answer: the edges of a mesh.
        """

    def find_neighbours(self, n_neighbours: int | None = None) -> "csr_array":
        """Return which features touch: a symmetric Boolean (n_features, n_features) array.

        Parameters
        ----------
        n_neighbours : int, optional
            One of `neighbourhoods`.

        Raises
        ------
        InputError
            If it is none of them; see `check_neighbourhood`.
        """

    # What a saved model keeps.

    def pack(self) -> tuple[Arrays, Options]:
        """Return all that `unpack` needs; options are what JSON can hold."""

    @classmethod
    def unpack(cls, arrays: Arrays, options: Options) -> Self:
        """Return the space that was packed."""

    @classmethod
    def of_file(cls, path: Path, inside: NDArray[np.bool_] | None = None) -> Self:
        """Return the space of a file: all its values, or those inside a mask."""


def check_neighbourhood(space: Space, n_neighbours: int | None) -> int:
    """Return how many neighbours a feature has that is asked to have `n_neighbours`.

    0 stands for the one answer that a space has; None asks for the default.
    """
    known = space.neighbourhoods
    if n_neighbours is None:
        return known[0] if known else 0
    if n_neighbours in known:
        return n_neighbours
    if not known:
        raise InputError(
            f"{show(n_neighbours)} neighbours are asked for, but a {type(space).__name__} itself "
            "says which features touch: leave the number out."
        )
    raise InputError(
        f"{show(n_neighbours)} neighbours are asked for, expected {join_some(sorted(known))}."
    )


class Header(Protocol):
    """What is known of a file of observations before its values are read."""

    @property
    def n_volumes(self) -> int:
        """Observations in the file."""

    @property
    def n_values(self) -> int:
        """Values of an observation, before any mask."""

    @property
    def bytes_to_read(self) -> int:
        """Memory of a value while it is read."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values in the file."""

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds every value exactly."""

    def describe_size(self) -> str:
        """Return in words how large observations are."""

    def describe_difference(self, expected: Self | None) -> str | None:
        """Say how the space differs from the one expected, or what is wrong with it, or None."""


class Kind(NamedTuple):
    """How files of one kind are looked at, before there is a space."""

    space: type[Space]
    endings: tuple[str, ...]  # of their names, but for compression
    maps: tuple[str, str]  # what the names of maps end in, plain and compressed
    inspect: Callable[[Path, FileState], Header]
    # The header that most files have the space of; the first argument is the field.
    choose: Callable[[str, Sequence[ImageEntry], Sequence[Any]], Header]
    # The values of a map, volumes last: an array in the order of Fortran, or sliced like one.
    load: Callable[[Path], Any]
