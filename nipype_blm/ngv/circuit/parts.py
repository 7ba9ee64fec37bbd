"""What a circuit has, and how its segments are measured; lengths are in um."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.ngv.circuit.capsules import Capsules, Floats
from nipype_blm.ngv.circuit.morphologies import Somata

Ids = NDArray[np.int64]

# Types of sections, as MorphIO has them for glia.
PERIVASCULAR, PERISYNAPTIC = 2, 3


class Meshes(NamedTuple):
    """Surfaces of triangles, one after the other."""

    points: Floats  # (n_points, 3), of all
    point_starts: Ids  # (n_meshes + 1,)
    triangles: Ids  # (n_triangles, 3), numbers of points within each mesh
    triangle_starts: Ids  # (n_meshes + 1,)

    @property
    def n_meshes(self) -> int:
        """How many there are, empty ones, too."""
        return len(self.point_starts) - 1

    @property
    def sizes(self) -> Ids:
        """How many triangles each has."""
        return np.diff(self.triangle_starts)

    def find_corners(self, i: int) -> Floats:
        """Return the corners of the triangles of a mesh, (n_triangles, 3, 3)."""
        points = self.points[self.point_starts[i] : self.point_starts[i + 1]]
        triangles = self.triangles[self.triangle_starts[i] : self.triangle_starts[i + 1]]
        return np.asarray(points[triangles])

    def find_points(self, i: int) -> Floats:
        """Return the points of a mesh, (n_points, 3)."""
        return self.points[self.point_starts[i] : self.point_starts[i + 1]]


class Microdomains(NamedTuple):
    """The territory of each astrocyte."""

    meshes: Meshes
    neighbours: list[Ids]  # of each domain, those that it has a face in common with
    scalings: Floats  # (n_astrocytes,), by which the cells of the tessellation were widened

    @property
    def volumes(self) -> Floats:
        """Of the domains in um^3, (n_astrocytes,).

        They are sums of tetrahedra from the middle of a domain, all of which its sides can be seen
        from; the order of the corners of triangles, which differs, does not matter.
        """
        found = []
        for i in range(self.meshes.n_meshes):
            middle = self.meshes.find_points(i).mean(axis=0)
            found.append(np.abs(np.linalg.det(self.meshes.find_corners(i) - middle)).sum() / 6)
        return np.array(found)


class Endfeet(NamedTuple):
    """Which astrocytes reach which vessels."""

    ids: Ids  # (n_endfeet,), by which meshes are numbered
    astrocytes: Ids  # (n_endfeet,)
    segments: Ids  # (n_endfeet,), of the vessels
    targets: Floats  # (n_endfeet, 3), on the surface of the vessel


class EndfeetMeshes(NamedTuple):
    """The surfaces of endfeet on vessels; those that found no room are empty."""

    meshes: Meshes
    areas: Floats  # (n_endfeet,), um^2
    thicknesses: Floats  # (n_endfeet,)


class Synapses(NamedTuple):
    """Which synapses belong to which astrocyte."""

    ids: Ids  # (n_synapses,), numbers of edges of the circuit of neurons
    astrocytes: Ids  # (n_synapses,)
    neurons: Ids  # (n_synapses,), those that the synapses end on
    neuron_population: str
    nearest: Floats | None  # (n_synapses, 3), on the astrocyte; None before synthesis


class GapJunctions(NamedTuple):
    """Contacts of astrocytes, of which each is there in both directions."""

    sources: Ids  # (n_contacts,)
    targets: Ids  # (n_contacts,)


class Circuit(NamedTuple):
    """What there is of a circuit; None is what has not been built."""

    somata: Somata | None = None
    vessels: Capsules | None = None  # their segments
    microdomains: Microdomains | None = None
    endfeet: Endfeet | None = None
    endfeet_meshes: EndfeetMeshes | None = None
    synapses: Synapses | None = None
    gap_junctions: GapJunctions | None = None


def measure_lengths(segments: Capsules) -> Floats:
    """Return the lengths of segments, (n,)."""
    return np.asarray(np.linalg.norm(segments.ends - segments.starts, axis=1))


def measure_areas(segments: Capsules) -> Floats:
    """Return the sides of truncated cones, (n,): pi (r + s) times the slant height, in um^2."""
    r, s = segments.radii.T
    return np.asarray(np.pi * (r + s) * np.hypot(measure_lengths(segments), r - s))


def measure_volumes(segments: Capsules) -> Floats:
    """Return the volumes of truncated cones of length l, (n,): pi l (r^2 + r s + s^2) / 3."""
    r, s = segments.radii.T
    return np.asarray(np.pi / 3 * measure_lengths(segments) * (r * r + r * s + s * s))
