"""The workflows that hand results over to FSL and to SPM."""

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline.engine import MapNode, Node, Workflow

from nipype_blm.interfaces.export import FSL_OUTPUTS, SPM_OUTPUTS, ExportFSL, ExportSPM

from .nodes import FreshNode

SMOOTHNESS = ("dlh", "volume", "resels")
CLUSTERS = ("threshold_file", "index_file", "localmax_txt_file", "pval_file")
THRESHOLDED = ("thresholded_map", "n_clusters", "cluster_forming_thr")


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


def init_spm_handover_wf(
    *,
    contrasts: Sequence[str] | None = None,
    height_threshold: float | None = None,
    use_fwe_correction: bool = True,
    extent_threshold: float = 0.05,
    out_dir: str | Path | None = None,
    overwrite: bool = False,
    name: str = "spm_handover_wf",
) -> Workflow:
    """Build a workflow that writes the results of a model in SPM's names, for nodes of SPM.

    A node of SPM is in it only with `height_threshold`; then it needs SPM with MATLAB, or compiled,
    and a contrast.

    Parameters
    ----------
    contrasts : sequence of str, optional
        Names of contrasts; by default all.
    height_threshold : float, optional
        Find voxels with a smaller p, for each contrast, and their clusters: by ``Threshold``.
    use_fwe_correction : bool
        Whether `height_threshold` is corrected by random fields.
    extent_threshold : float
        False discovery rate of the clusters that are kept, by their extents.
    out_dir : path, optional
        Folder for the files; by default they stay in the working directory.  Without spaces in its
        path: SPM's node does not read it else.
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
    spm_mat_file, mask_file, residual_image, rpv_image, out_dir
        Files and folder.
    beta_images, con_images, spmT_images, ess_images, spmF_images, dof_images
        Lists with an entry for each column of X, each T contrast (two), each F contrast (two), each
        contrast.
    names, t_numbers, f_numbers
        Contrasts of SPM.mat, and which of them are T and F.
    erdf, fwhm, resel_counts
        Error degrees of freedom; smoothness in voxels; resels in 0 to 3 dimensions.
    thresholded_map, n_clusters, cluster_forming_thr
        With `height_threshold`: what SPM leaves, for each contrast, those of T first.
    """
    # By default beside the node's own folder, which is emptied whenever the node runs.
    folder = "../spm" if out_dir is None else str(Path(out_dir).absolute())
    export = FreshNode(ExportSPM(out_dir=folder, overwrite=overwrite), name="export", mem_gb=1)
    if contrasts is not None:
        export.inputs.contrasts = list(contrasts)
    fields = [*SPM_OUTPUTS, *(() if height_threshold is None else THRESHOLDED)]
    inputnode = Node(IdentityInterface(fields=["results_dir"]), name="inputnode")
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow = Workflow(name=name)
    workflow.connect(
        [
            (inputnode, export, [("results_dir", "results_dir")]),
            (export, outputnode, [(field, field) for field in SPM_OUTPUTS]),
        ]
    )
    if height_threshold is not None:
        threshold = _make_threshold(height_threshold, use_fwe_correction, extent_threshold)
        _connect_threshold(workflow, export, threshold, outputnode)
    return workflow


def _make_threshold(height: float, use_fwe_correction: bool, extent: float) -> Node:
    """Return the node of SPM."""
    from nipype.interfaces.spm import Threshold

    return MapNode(
        Threshold(
            height_threshold=height,
            use_fwe_correction=use_fwe_correction,
            extent_fdr_p_threshold=extent,
        ),
        iterfield=["stat_image", "contrast_index"],
        name="threshold",
        mem_gb=1,
    )


def _connect_threshold(workflow: Workflow, export: Node, threshold: Node, outputnode: Node) -> None:
    """Give each T and F map to SPM, with its number in SPM.mat."""
    merges = {
        "stat_image": ("spmT_images", "spmF_images"),
        "contrast_index": ("t_numbers", "f_numbers"),
    }
    for field, lists in merges.items():
        both = Node(Merge(2), name=f"{field}s")
        workflow.connect(
            [
                (export, both, [(lists[0], "in1"), (lists[1], "in2")]),
                (both, threshold, [("out", field)]),
            ]
        )
    workflow.connect(
        [
            (export, threshold, [("spm_mat_file", "spm_mat_file")]),
            (threshold, outputnode, [(field, field) for field in THRESHOLDED]),
        ]
    )
