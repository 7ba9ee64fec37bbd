"""Results in the names of FSL, of SPM, or of nilearn and BIDS."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    defined_traits,
    overwrite_trait,
    results_trait,
)
from nipype_blm.interfaces.maps import add_maps, list_maps
from nipype_blm.results import bids, fsl, spm


class _ExportInputSpec(InputSpec):
    results_dir = results_trait()
    contrasts = traits.List(traits.Str, desc="names of contrasts; default: all")
    overwrite = overwrite_trait()


class _ExportFSLInputSpec(_ExportInputSpec):
    out_dir = Directory(desc="folder for the files; default: fsl in the working directory")


class _ExportSPMInputSpec(_ExportInputSpec):
    out_dir = Directory(desc="folder for the files; default: spm in the working directory")


class _ExportBIDSInputSpec(_ExportInputSpec):
    out_dir = Directory(desc="folder for the files; default: bids in the working directory")
    task = traits.Str(desc="label of task- in names of files; default: that of all images")
    space = traits.Str(desc="label of space- in names of files; default: that of all images")
    sources = traits.List(traits.Str, desc="URLs of the data sets that the images are of")


class _ExportFSLOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of the designs and of stats")
    stats_dir = Directory(exists=True, desc="folder of the maps")
    t_masks = traits.List(File(exists=True), desc="where each T contrast is estimable")
    f_masks = traits.List(File(exists=True), desc="where each F contrast is estimable")
    t_names = traits.List(traits.Str, desc="names of the T contrasts, in their order")
    f_names = traits.List(traits.Str, desc="names of the F contrasts, in their order")
    dof = traits.Int(desc="median error degrees of freedom of the voxels, rounded down")
    design_mat = File(exists=True, desc="X")
    design_con = File(exists=True, desc="T contrasts, and behind them rows of F contrasts")
    design_fts = File(exists=True, desc="F contrasts, if there are any")
    design_grp = File(exists=True, desc="one group of one variance")


add_maps(_ExportFSLOutputSpec, fsl.MAPS)
# Every output; a builder connects them all.
FSL_OUTPUTS = tuple(_ExportFSLOutputSpec().copyable_trait_names())


class _ExportSPMOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of all files")
    spm_mat_file = File(exists=True, desc="SPM.mat")
    names = traits.List(traits.Str, desc="names of the contrasts in SPM.mat")
    t_numbers = traits.List(traits.Int, desc="numbers of T contrasts in SPM.mat, from 1")
    f_numbers = traits.List(traits.Int, desc="numbers of F contrasts in SPM.mat, from 1")
    erdf = traits.Int(desc="error degrees of freedom of all T and F maps")
    fwhm = traits.List(traits.Float, desc="smoothness along each axis, in voxels")
    resel_counts = traits.List(traits.Float, desc="resels in 0, 1, 2 and 3 dimensions")


add_maps(_ExportSPMOutputSpec, spm.MAPS)
SPM_OUTPUTS = tuple(_ExportSPMOutputSpec().copyable_trait_names())


class _ExportBIDSOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="the BIDS derivative")
    design_file = File(exists=True, desc="X, as a table")


add_maps(_ExportBIDSOutputSpec, bids.MAPS)


class ExportFSL(BLMInterface):
    """Write results as FSL's flameo leaves them.

    Lists have an entry for each T contrast, or for each F contrast (``fstats``, ``zfstats``,
    ``fdof1``, ``fdof2``, ``f_masks``).  Runs every time, since Nipype does not look into the
    folder; files that are the same are not written again.

    Examples
    --------
    >>> from nipype_blm.interfaces.export import ExportFSL
    >>> export = ExportFSL(contrasts=["age"])
    >>> export.inputs.results_dir = "results"  # doctest: +SKIP
    >>> zstats = export.run().outputs.zstats  # doctest: +SKIP
    """

    input_spec = _ExportFSLInputSpec
    output_spec = _ExportFSLOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.results.results import Results

        given = defined_traits(self.inputs)
        done = fsl.export_fsl(
            Results(given["results_dir"]),
            Path(runtime.cwd, given.get("out_dir", fsl.DEFAULT_FOLDER)).resolve(),
            given.get("contrasts"),
            given["overwrite"],
        )
        self._results = list_maps(fsl.MAPS, done.outputs) | {
            "out_dir": str(done.out_dir),
            "stats_dir": str(done.out_dir / "stats"),
            "t_masks": list(map(str, done.t_masks)),
            "f_masks": list(map(str, done.f_masks)),
            "t_names": done.t_names,
            "f_names": done.f_names,
            "dof": done.dof,
        }
        for end in ("mat", "con", "fts", "grp"):
            if (name := f"design.{end}") in done.files:
                self._results[f"design_{end}"] = str(done.files[name])
        return runtime


class ExportSPM(BLMInterface):
    """Write results as SPM leaves them, with SPM.mat; reads the images for their smoothness.

    ``beta_images`` has an entry for each column of X, ``dof_images`` for each contrast,
    ``con_images`` and ``spmT_images`` for each T contrast, ``ess_images`` and ``spmF_images`` for
    each F contrast.  Runs every time, as `ExportFSL`.

    Examples
    --------
    >>> from nipype_blm.interfaces.export import ExportSPM
    >>> export = ExportSPM(contrasts=["age"])
    >>> export.inputs.results_dir = "results"  # doctest: +SKIP
    >>> spm_mat_file = export.run().outputs.spm_mat_file  # doctest: +SKIP
    """

    input_spec = _ExportSPMInputSpec
    output_spec = _ExportSPMOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.results.results import Results
        from nipype_blm.stages.reopened import open_values
        from nipype_blm.stages.smoothness import estimate_smoothness

        given = defined_traits(self.inputs)
        results = Results(given["results_dir"])
        out_dir = Path(runtime.cwd, given.get("out_dir", spm.DEFAULT_FOLDER)).resolve()
        spm.find_spm_folder(results, out_dir)
        with open_values(results) as values:
            smoothness = estimate_smoothness(results, values)
        done = spm.export_spm(
            results,
            smoothness,
            out_dir,
            given.get("contrasts"),
            given["overwrite"],
        )
        self._results = list_maps(spm.MAPS, done.outputs) | {
            "out_dir": str(done.out_dir),
            "spm_mat_file": str(done.mat_file),
            "names": done.names,
            "t_numbers": done.t_numbers,
            "f_numbers": done.f_numbers,
            "erdf": done.erdf,
            "fwhm": smoothness.fwhm.tolist(),
            "resel_counts": smoothness.resel_counts.tolist(),
        }
        return runtime


class ExportBIDS(BLMInterface):
    """Write results as a BIDS derivative, in the names of nilearn.

    Lists have an entry for each contrast, ``rsquared_maps`` for each F contrast, and
    ``contrast_masks`` for each that is not estimable everywhere.  Runs every time, as `ExportFSL`.

    Examples
    --------
    >>> from nipype_blm.interfaces.export import ExportBIDS
    >>> export = ExportBIDS(task="nback")
    >>> export.inputs.results_dir = "results"  # doctest: +SKIP
    >>> folder = export.run().outputs.out_dir  # doctest: +SKIP
    """

    input_spec = _ExportBIDSInputSpec
    output_spec = _ExportBIDSOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.results.results import Results

        given = defined_traits(self.inputs)
        done = bids.export_bids(
            Results(given["results_dir"]),
            Path(runtime.cwd, given.get("out_dir", bids.DEFAULT_FOLDER)).resolve(),
            given.get("contrasts"),
            {name: given[name] for name in bids.ENTITIES if name in given},
            given.get("sources", ()),
            given["overwrite"],
        )
        [design] = [path for name, path in done.files.items() if name.endswith("design.tsv")]
        self._results = list_maps(bids.MAPS, done.outputs) | {
            "out_dir": str(done.out_dir),
            "design_file": str(design),
        }
        return runtime
