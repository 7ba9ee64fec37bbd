"""Corrected inference on results of a model: one interface for each stage, and one for all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    defined_traits,
    memory_trait,
    results_trait,
    threads_trait,
    warn_of,
)
from nipype_blm.model.inference import CORRECTIONS, DESCRIPTIONS, EXCHANGES, PANEL, SIDES
from nipype_blm.units import GIB

if TYPE_CHECKING:
    from nipype_blm.results.inferred import Inferred
    from nipype_blm.stages.inference import PreparedInference

# Inputs that are no options of an inference.
_RUNNING = ("results_dir", "max_mem_gb", "n_procs", "plan_dir", "parallel_nodes", "work_dir")


class InferenceInputSpec(InputSpec):
    """What is asked of an inference."""

    results_dir = results_trait()
    contrasts = traits.List(traits.Str, desc=DESCRIPTIONS["contrasts"])
    resampling = traits.Str(desc=DESCRIPTIONS["resampling"])
    n = traits.Range(low=2, desc=DESCRIPTIONS["n"])
    seed = traits.Range(low=0, desc=DESCRIPTIONS["seed"])
    summaries = traits.List(traits.Str, desc=DESCRIPTIONS["summaries"])
    cluster_z = traits.Float(desc=DESCRIPTIONS["cluster_z"])
    cluster_p = traits.Float(desc=DESCRIPTIONS["cluster_p"])
    tfce_e = traits.Float(desc=DESCRIPTIONS["tfce_e"])
    tfce_h = traits.Float(desc=DESCRIPTIONS["tfce_h"])
    sides = traits.Enum(*SIDES, desc=DESCRIPTIONS["sides"])
    joint = traits.Bool(False, usedefault=True, desc=DESCRIPTIONS["joint"])
    neighbours = traits.Int(desc=DESCRIPTIONS["neighbours"])
    blocks = traits.Str(desc=DESCRIPTIONS["blocks"])
    exchange = traits.Enum(*EXCHANGES, desc=DESCRIPTIONS["exchange"])
    tail = traits.Bool(True, usedefault=True, desc=DESCRIPTIONS["tail"])
    fdr = traits.Enum(*CORRECTIONS, desc=DESCRIPTIONS["fdr"])
    atlas = File(desc=DESCRIPTIONS["atlas"])
    atlas_names = File(desc=DESCRIPTIONS["atlas_names"])
    distance_mm = traits.Float(desc=DESCRIPTIONS["distance_mm"])
    max_mem_gb = memory_trait()


def _prepare(inputs: Any, parallel_nodes: int = 1) -> "PreparedInference":
    """Check an inference; tell what is no fault of it."""
    from nipype_blm.frontends.inference import make_inference_options
    from nipype_blm.stages.inference import prepare_inference

    given = defined_traits(inputs)
    options = {name: value for name, value in given.items() if name not in _RUNNING}
    prepared = prepare_inference(
        Path(given["results_dir"]).absolute(),
        make_inference_options(options, str),
        int(given["max_mem_gb"] * GIB),
        parallel_nodes,
    )
    warn_of(prepared.notices)
    return prepared


class _PlanInferenceInputSpec(InferenceInputSpec):
    plan_dir = traits.Str(
        ".",
        usedefault=True,
        nohash=True,
        desc="folder for the plan, relative to the working directory",
    )
    parallel_nodes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="nodes that run at the same time"
    )


class _PlanInferenceOutputSpec(TraitedSpec):
    model_file = File(exists=True, desc="the model as it was fitted")
    batch_files = traits.List(File(exists=True), desc="the images of each batch")
    resampled_file = File(exists=True, desc="what is resampled, and how")
    blocks = traits.List(traits.Int, desc="numbers of the voxel blocks")
    starts = traits.List(traits.Int, desc="first resampling of each task")
    stops = traits.List(traits.Int, desc="that behind the last")
    n = traits.Int(desc="resamplings in all")
    options = traits.Dict(traits.Str, traits.Any, desc="how results are corrected")
    kept = traits.Str(desc="folder of tiles that a run may have kept")


# Every output; a node that has a plan hands on the same.
PLAN_OUTPUTS = tuple(_PlanInferenceOutputSpec().copyable_trait_names())


def write_inference_plan(prepared: "PreparedInference", folder: Path) -> dict[str, Any]:
    """Write the plan of an inference; return the outputs of `PlanInference`.

    Where all resamplings are done the last panel is done again: Nipype runs no list of no node.
    """
    files = prepared.write(folder)
    starts = files.starts or [(files.n - 1) // PANEL * PANEL]
    stops = files.stops or [files.n]
    return {
        "model_file": str(files.model_file),
        "batch_files": [str(path) for path in files.batch_files],
        "resampled_file": str(files.resampled_file),
        "blocks": files.blocks,
        "starts": starts,
        "stops": stops,
        "n": files.n,
        "options": prepared.options.pack(),
        "kept": str(prepared.reopened.kept),
    }


class PlanInference(BLMInterface):
    """Check what is asked of an inference, and cut its work into pieces.

    Runs every time, since Nipype does not look into the folder of results.
    """

    input_spec = _PlanInferenceInputSpec
    output_spec = _PlanInferenceOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        prepared = _prepare(self.inputs, self.inputs.parallel_nodes)
        folder = Path(runtime.cwd, self.inputs.plan_dir).resolve()
        self._results = write_inference_plan(prepared, folder)
        return runtime


class _StageInputSpec(InputSpec):
    model_file = File(exists=True, mandatory=True, desc="the model as it was fitted")
    n_procs = threads_trait()


class _StageOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="what was computed")


class _ComputeTilesInputSpec(_StageInputSpec):
    batch_file = File(exists=True, mandatory=True, desc="the images of a batch")
    kept = traits.Str(desc="folder of tiles that a run has kept", nohash=True)


class ComputeTiles(BLMInterface):
    """Read the images of a batch and write their values, to be read by voxel."""

    input_spec = _ComputeTilesInputSpec
    output_spec = _StageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.tiles import compute_tiles

        out_file = Path(runtime.cwd, "tiles.blm")
        given = defined_traits(self.inputs)
        files = (given["model_file"], given["batch_file"], out_file)
        compute_tiles(*files, given["n_procs"], given.get("kept"))
        self._results["out_file"] = str(out_file)
        return runtime


class _ComputeScoresInputSpec(_StageInputSpec):
    resampled_file = File(exists=True, mandatory=True, desc="what is resampled")
    batch_files = traits.List(File(exists=True), mandatory=True, desc="the images of each batch")
    tile_files = traits.List(File(exists=True), mandatory=True, desc="their values")
    block = traits.Int(mandatory=True, desc="number of the voxel block")


class ComputeScores(BLMInterface):
    """Fit the null model of each contrast at a block of voxels."""

    input_spec = _ComputeScoresInputSpec
    output_spec = _StageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.resampling import compute_scores

        given, out_file = self.inputs, Path(runtime.cwd, "scores.blm")
        files = (given.model_file, given.resampled_file, given.batch_files, given.tile_files)
        compute_scores(*files, given.block, out_file, given.n_procs)
        self._results["out_file"] = str(out_file)
        return runtime


class _ComputeNullsInputSpec(_StageInputSpec):
    resampled_file = File(exists=True, mandatory=True, desc="what is resampled")
    scores_files = traits.List(File(exists=True), mandatory=True, desc="scores of all blocks")
    start = traits.Int(mandatory=True, desc="number of the first resampling")
    stop = traits.Int(mandatory=True, desc="number behind the last")


class ComputeNulls(BLMInterface):
    """Resample: the largest value of each summary, for each resampling."""

    input_spec = _ComputeNullsInputSpec
    output_spec = _StageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.resampling import compute_nulls

        given, out_file = self.inputs, Path(runtime.cwd, "nulls.blm")
        files = (given.model_file, given.resampled_file, given.scores_files)
        compute_nulls(*files, given.start, given.stop, out_file, given.n_procs)
        self._results["out_file"] = str(out_file)
        return runtime


class _InferredOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of the inference, in that of the results")
    zscore_maps = traits.List(File(exists=True), desc="z that was resampled, of each contrast")
    cluster_tables = traits.List(File(exists=True), desc="clusters and peaks of each contrast")
    null_files = traits.List(File(exists=True), desc="null distributions of each contrast")
    corrected_maps = traits.List(
        traits.List(File(exists=True)),
        desc="family-wise corrected p of each contrast: a map for each summary",
    )
    q_maps = traits.List(File(exists=True), desc="false discovery rates, of each contrast")
    summaries = traits.List(traits.Str, desc="what was corrected, in the order of corrected_maps")
    n = traits.Int(desc="resamplings, the data being the first")


OUTPUTS = tuple(_InferredOutputSpec().copyable_trait_names())


def _list_outputs(inferred: "Inferred") -> dict[str, Any]:
    """Return an inference as outputs."""
    contrasts, summaries = inferred.contrasts.values(), inferred.summaries
    return {
        "out_dir": str(inferred.folder),
        "zscore_maps": [str(each.path("z")) for each in contrasts],
        "cluster_tables": [str(each.clusters_file) for each in contrasts],
        "null_files": [str(each.nulls_file) for each in contrasts],
        "corrected_maps": [[str(each.path("p", name)) for name in summaries] for each in contrasts],
        "q_maps": [str(each.path("q")) for each in contrasts],
        "summaries": summaries,
        "n": inferred.n,
    }


class _CorrectMapsInputSpec(_StageInputSpec):
    results_dir = results_trait()
    resampled_file = File(exists=True, mandatory=True, desc="what is resampled")
    scores_files = traits.List(File(exists=True), mandatory=True, desc="scores of all blocks")
    nulls_files = traits.List(File(exists=True), mandatory=True, desc="of all tasks")
    batch_files = traits.List(File(exists=True), mandatory=True, desc="the images of each batch")
    tile_files = traits.List(File(exists=True), mandatory=True, desc="their values")
    starts = traits.List(traits.Int, mandatory=True, desc="first resampling of each task")
    stops = traits.List(traits.Int, mandatory=True, desc="that behind the last")
    n = traits.Int(mandatory=True, desc="resamplings in all")
    options = traits.Dict(mandatory=True, desc="how results are corrected")


class CorrectMaps(BLMInterface):
    """Correct p by the null distributions; write maps, clusters and what was resampled.

    Runs every time; files that are the same are not written again.
    """

    input_spec = _CorrectMapsInputSpec
    output_spec = _InferredOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.model.inference import InferenceOptions
        from nipype_blm.stages.corrected import write_corrected

        given = self.inputs
        done = write_corrected(
            Path(given.results_dir),
            given.model_file,
            given.resampled_file,
            given.scores_files,
            given.nulls_files,
            list(zip(given.starts, given.stops, strict=True)),
            given.n,
            InferenceOptions.unpack(given.options),
            given.batch_files,
            given.tile_files,
            given.n_procs,
        )
        self._results = _list_outputs(done)
        return runtime


class _ResampleMapsInputSpec(InferenceInputSpec):
    n_procs = threads_trait()
    work_dir = Directory(
        nohash=True, desc="folder for intermediate files, from which a run goes on; it is emptied"
    )


class ResampleMaps(BLMInterface):
    """Correct the p of contrasts for the number of voxels, by resampling; all stages in one node.

    Works on the folder of results of a linear or mixed model; see `init_inference_wf` for the same
    in nodes.

    Examples
    --------
    >>> from nipype_blm.interfaces.inference import ResampleMaps
    >>> resample = ResampleMaps(n=5000, summaries=["voxel", "tfce"])
    >>> resample.inputs.results_dir = "results"  # doctest: +SKIP
    >>> tables = resample.run().outputs.cluster_tables  # doctest: +SKIP
    """

    input_spec = _ResampleMapsInputSpec
    output_spec = _InferredOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.inference import run_inference

        prepared = _prepare(self.inputs)
        given = defined_traits(self.inputs)
        work_dir = Path(runtime.cwd, given.get("work_dir", "inference_work")).resolve()
        self._results = _list_outputs(run_inference(prepared, work_dir, given["n_procs"]))
        return runtime
