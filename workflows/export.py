"""The workflow that hands results over to FSL."""

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import MapNode, Node, Workflow

from nipype_blm.interfaces.export import FSL_OUTPUTS, ExportFSL

from .nodes import FreshNode

SMOOTHNESS = ("dlh", "volume", "resels")
CLUSTERS = ("threshold_file", "index_file", "localmax_txt_file", "pval_file")


def init_fsl_handover_wf(
    *,
    contrasts: Sequence[str] | None = None,
    z_threshold: float | None = None,
    p_threshold: float = 0.05,
    out_dir: str | Path | None = None,
    overwrite: bool = False,
    name: str = "fsl_handover_wf",
) -> Workflow:
    """Build a workflow that writes the results of a model in FSL's names, for nodes of FSL.

    Nodes of FSL are in it only with `z_threshold`; then it needs FSL, and a T contrast.

    Parameters
    ----------
    contrasts : sequence of str, optional
        Names of contrasts; by default all.
    z_threshold : float, optional
        Find clusters of voxels with a larger z, for each T contrast: by ``SmoothEstimate`` of its
        z map, and ``Cluster``.
    p_threshold : float
        Corrected p of the clusters that are kept.
    out_dir : path, optional
        Folder for the files; by default they stay in the working directory.
    overwrite : bool
        Replace the export of other results in `out_dir`.
    name : str
        Name of the workflow.

    Inputs
    ------
    results_dir
        Folder of results, such as the `out_dir` of a workflow that fits a model.

    Outputs
    -------
    copes, var_copes, tstats, zstats, tdof, t_masks, t_names
        Lists with an entry for each T contrast.
    fstats, zfstats, fdof1, fdof2, f_masks, f_names
        Lists with an entry for each F contrast.
    pes, mask_file, dof, design_mat, design_con, design_fts, design_grp, stats_dir, out_dir
        Estimates, mask, degrees of freedom, designs, folders.
    dlh, volume, resels, threshold_file, index_file, localmax_txt_file, pval_file
        With `z_threshold`: smoothness and clusters of positive effects, for each T contrast; for
        negative ones the model needs the contrast with the other sign.  ``resels`` is what FSL
        calls so: the size of a resel in voxels, not their number.
    """
    # By default beside the node's own folder, which is emptied whenever the node runs.
    folder = "../fsl" if out_dir is None else str(Path(out_dir).absolute())
    export = FreshNode(ExportFSL(out_dir=folder, overwrite=overwrite), name="export", mem_gb=1)
    if contrasts is not None:
        export.inputs.contrasts = list(contrasts)
    fields = [*FSL_OUTPUTS, *(() if z_threshold is None else (*SMOOTHNESS, *CLUSTERS))]
    inputnode = Node(IdentityInterface(fields=["results_dir"]), name="inputnode")
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow = Workflow(name=name)
    workflow.connect(
        [
            (inputnode, export, [("results_dir", "results_dir")]),
            (export, outputnode, [(field, field) for field in FSL_OUTPUTS]),
        ]
    )
    if z_threshold is not None:
        _add_clusters(workflow, export, outputnode, z_threshold, p_threshold)
    return workflow


def _add_clusters(
    workflow: Workflow, export: Node, outputnode: Node, z_threshold: float, p_threshold: float
) -> None:
    """Find the clusters of each T contrast with FSL."""
    from nipype.interfaces.fsl import Cluster, SmoothEstimate

    # Of z, not of dof and residuals: degrees of freedom differ between voxels.
    smoothness = MapNode(
        SmoothEstimate(), iterfield=["zstat_file", "mask_file"], name="smoothness", mem_gb=1
    )
    cluster = MapNode(
        Cluster(
            threshold=z_threshold,
            pthreshold=p_threshold,
            out_threshold_file=True,
            out_index_file=True,
            out_localmax_txt_file=True,
            out_pval_file=True,
        ),
        iterfield=["in_file", "cope_file", "dlh", "volume"],
        name="cluster",
        mem_gb=1,
    )
    workflow.connect(
        [
            (export, smoothness, [("zstats", "zstat_file"), ("t_masks", "mask_file")]),
            (export, cluster, [("zstats", "in_file"), ("copes", "cope_file")]),
            (smoothness, cluster, [("dlh", "dlh"), ("volume", "volume")]),
            (smoothness, outputnode, [(field, field) for field in SMOOTHNESS]),
            (cluster, outputnode, [(field, field) for field in CLUSTERS]),
        ]
    )
