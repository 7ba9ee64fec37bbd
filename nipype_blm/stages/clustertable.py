"""The table of the clusters of a contrast: where they are, how large, and how sure."""

from collections.abc import Mapping, Sequence
from typing import Any

from nipype_blm.core.clusters.graph import Graph
from nipype_blm.core.clusters.tables import make_table
from nipype_blm.core.linalg import FloatArray
from nipype_blm.io.described import format_described

_WORDS = "The clusters of a contrast and their peaks."
_COLUMNS = {
    "cluster": "Number of the cluster: those of positive z first, the largest of a sign first.",
    "peak": "Number of the peak in its cluster, from 1: the highest.",
    "x": "Coordinate of the peak in the space of the images, mm.",
    "y": "Coordinate of the peak, mm.",
    "z": "Coordinate of the peak, mm.",
    "label": "Name of the peak in the atlas.",
    "size_voxels": "Voxels of the cluster.",
    "size_mm3": "Volume of the cluster, cubic mm.",
    "mass": "Sum over the cluster of |z| less the height that forms clusters.",
    "peak_z": "z at the peak.",
    "effect": "Effect of a T contrast at the peak, y per unit of the contrast.",
    "lower": "Lower limit of its 95 % confidence interval, for this voxel by itself.",
    "upper": "Upper limit of its 95 % confidence interval.",
    "n": "Images with data at the peak.",
    "p_field": "Family-wise corrected p at the peak by random fields.",
    "p_clusterfield": "Family-wise corrected p of the extent of the cluster by random fields.",
    "q": "False discovery rate q at the peak.",
}


def tabulate_clusters(
    name: str,
    z: FloatArray,
    graph: Graph,
    height: float,
    two_sided: bool,
    coordinates: FloatArray,
    voxel_mm3: float,
    distance_mm: float,
    at_voxels: Mapping[str, FloatArray],
    words: Mapping[str, str],
    labels: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the texts of NAME.tsv, with a row for each peak of each cluster, and of NAME.json.

    Parameters
    ----------
    name : str
    z : array of shape (n,)
        At the voxels that were tested.
    graph : Graph
        Of these voxels.
    height : float
        z that forms clusters.
    coordinates : array of shape (n, 3)
        mm.
    at_voxels : mapping of str to array of shape (n,)
        Further columns, with what each voxel has; of `_COLUMNS` and `words`.
    words : mapping of str to str
        What columns of p by resampling are.
    labels : sequence of str, optional
        Of each voxel.
    """
    table = make_table(z, graph, height, coordinates, distance_mm, two_sided=two_sided)
    known = _COLUMNS | dict(words)
    leave_out = {"label"} if labels is None else set()
    fixed = ("cluster", "peak", "x", "y", "z", "label", "size_voxels", "size_mm3", "mass", "peak_z")
    names = [name for name in fixed if name not in leave_out] + list(at_voxels)
    rows = []
    for number, cluster in enumerate(table.clusters, 1):
        for place, peak in enumerate((cluster.peak, *cluster.sub_peaks), 1):
            found: dict[str, Any] = {
                "cluster": number,
                "peak": place,
                **dict(zip("xyz", map(float, coordinates[peak.feature]), strict=True)),
                "label": "" if labels is None else labels[peak.feature],
                "size_voxels": cluster.size,
                "size_mm3": float(cluster.size * voxel_mm3),
                "mass": cluster.mass,
                "peak_z": peak.z,
            }
            found |= {name: float(values[peak.feature]) for name, values in at_voxels.items()}
            rows.append([found[name] for name in names])
    columns = {column: known[column] for column in names}
    return format_described(name, _WORDS, columns, rows, {"ClusterFormingZ": height})
