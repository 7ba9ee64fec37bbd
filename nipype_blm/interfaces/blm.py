"""Big Linear Models: one interface for each stage, and one for the whole model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nipype.interfaces.base import Directory, File, InputMultiObject, TraitedSpec, isdefined, traits

from nipype_blm.data.files import stat_file
from nipype_blm.frontends.blm import to_yaml
from nipype_blm.frontends.record import is_written_for, write_inputs
from nipype_blm.frontends.traits import check, read
from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    MapsOutputSpec,
    ModelInputSpec,
    allow_empty_trait,
    defined_traits,
    maps_as_outputs,
    overwrite_trait,
    threads_trait,
    warn_of,
)
from nipype_blm.model.request import PLAN_FOLDER

if TYPE_CHECKING:
    from nipype_blm.model.request import Request
    from nipype_blm.stages.plan import PreparedRun

KEPT = ("all", "contrasts", "tiles")  # nothing: Nipype needs what is in the folders of its nodes


def _find_out_dir(inputs: Any, runtime: Any, default: str) -> Path:
    return Path(runtime.cwd, inputs.out_dir if isdefined(inputs.out_dir) else default)


def _out_dir() -> Any:
    return Directory(
        desc="folder for the maps; default: one named after the model in the working directory"
    )


def _fingerprint() -> Any:
    return traits.Str(mandatory=True, desc="fingerprint of the model and its images")


class PlanBLMInputSpec(ModelInputSpec):
    """A Big Linear Model, and where its plan goes."""

    # Planning looks at every image itself, every time.
    in_files = InputMultiObject(
        traits.Str, hash_files=False, desc="as for BLM: images, or a list of them"
    )
    data_mask_files = InputMultiObject(
        traits.Str, hash_files=False, desc="as for BLM: masks, or a list of them"
    )
    plan_dir = traits.Str(
        ".",
        usedefault=True,
        nohash=True,
        desc="folder for the plan, relative to the working directory; outside of it, a file "
        "that did not change keeps its time, and nodes that depend on it stay cached",
    )
    parallel_nodes = traits.Range(
        low=1,
        nohash=True,
        desc="nodes that run at the same time; there are as many batches and blocks, if each "
        "has work for some seconds",
    )
    out_dir = Directory(
        nohash=True, desc="folder for the maps, to be recorded in inputs.yml; default: plan_dir"
    )
    keep = traits.Enum(
        *KEPT,
        usedefault=True,
        nohash=True,
        desc="intermediate files that stay, to be recorded in inputs.yml: all; contrasts, what "
        "new contrasts need; or tiles, all and the values of the images by voxel",
    )


class _PlanBLMOutputSpec(TraitedSpec):
    model_file = File(exists=True, desc="the model without its contrasts")
    batch_files = traits.List(File(exists=True), desc="the images of each batch")
    contrasts_file = File(exists=True, desc="the contrasts")
    inputs_file = File(exists=True, desc="the configuration, complete and re-runnable")
    study_file = File(exists=True, desc="of a model of a formula: its table, and who was left out")
    blocks = traits.List(traits.Int, desc="numbers of the voxel blocks")
    fingerprint = traits.Str(desc="fingerprint of the model and its images")
    model_id = traits.Str(desc="fingerprint of the model and its contrasts, however it is planned")
    max_threads = traits.Int(desc="most threads that fit into memory while reading")


# Every output; a node that has a plan hands on the same.
PLAN_OUTPUTS = tuple(_PlanBLMOutputSpec().copyable_trait_names())


def write_plan_files(
    run: "PreparedRun", request: "Request", folder: Path, aside: Path | None = None
) -> dict[str, Any]:
    """Write a plan, and the record of its request, if it has one, beside it; see `write_plan`.

    Returns
    -------
    dict
        The outputs of `PlanBLM`; without a record there is no inputs_file, and without a formula
        no study_file.
    """
    from nipype_blm.stages.plan import write_plan

    plan = write_plan(run, folder, aside)
    record = request.record
    optional: dict[str, Any] = {}
    if record:
        optional["inputs_file"] = str(write_inputs(folder / "inputs.yml", record))
    if plan.study_file is not None:
        optional["study_file"] = str(plan.study_file)
    return optional | {
        "model_file": str(plan.model_file),
        "batch_files": [str(path) for path in plan.batch_files],
        "contrasts_file": str(plan.contrasts_file),
        "blocks": plan.blocks,
        "fingerprint": plan.fingerprint,
        "model_id": plan.model_id,
        "max_threads": run.plan.threads(2**16, request.max_bytes),
    }


class PlanBLM(BLMInterface):
    """Check a model and its images, and cut the work into batches and blocks.

    Runs every time, and notes size and time of every image; what it wrote before stays as it
    is where nothing changed.
    """

    input_spec = PlanBLMInputSpec
    output_spec = _PlanBLMOutputSpec
    _always_run = True
    _model: ClassVar[str] = "blm"

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.growth import EarlierPlaces
        from nipype_blm.stages.plan import check_out_dir, prepare_run

        folder = Path(runtime.cwd, self.inputs.plan_dir).resolve()
        given = {"out_dir": str(folder)} | defined_traits(self.inputs)
        if not Path(given["out_dir"]).is_absolute():
            given["out_dir"] = str(Path(runtime.cwd, given["out_dir"]).resolve())
        request = read(given, self._model, keep=self.inputs.keep)
        # Elsewhere than in a workflow of ours, nobody knows what lies beside the plan.
        places = EarlierPlaces.of_workflow(folder.parent) if folder.name == PLAN_FOLDER else None
        run = prepare_run(request, given.get("parallel_nodes"), folder.parent, places)
        check_out_dir(run, request, folder)
        warn_of(run.notices)
        aside = None if places is None else places.aside
        self._results = write_plan_files(run, request, folder, aside)
        return runtime


class _ComputeProductsInputSpec(InputSpec):
    model_file = File(exists=True, mandatory=True, desc="the model without its contrasts")
    batch_file = File(exists=True, mandatory=True, desc="the images of the batch")
    max_threads = traits.Range(low=1, nohash=True, desc="most threads that fit into memory")
    checkpoint_dir = traits.Str(
        nohash=True,
        desc="folder, relative to the working directory, for what has been read so far; outside "
        "of it, it outlives a node that is interrupted, and the next one goes on from there",
    )
    tiles_dir = traits.Str(
        nohash=True,
        desc="folder, relative to the working directory, for the values of images by voxel; "
        "values that are there are not read from images",
    )
    keep_tiles = traits.Bool(nohash=True, desc="write the values of the images to tiles_dir")
    n_procs = threads_trait()


class _ComputeProductsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="products of the batch at every voxel")
    tiles_file = File(desc="values of its images at every voxel, if they are to be kept")


class ComputeProducts(BLMInterface):
    """Read the images of a batch, once, and reduce them to products at every voxel."""

    input_spec = _ComputeProductsInputSpec
    output_spec = _ComputeProductsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.products import compute_products
        from nipype_blm.stages.tiles import find_tile

        n_threads = self.inputs.n_procs
        if isdefined(self.inputs.max_threads):
            n_threads = min(n_threads, self.inputs.max_threads)
        out_file, checkpoint = Path(runtime.cwd, "products.blm"), None
        if isdefined(self.inputs.checkpoint_dir):
            folder = Path(runtime.cwd, self.inputs.checkpoint_dir).resolve()
            checkpoint = folder / f"{Path(self.inputs.batch_file).stem}.blm"
        batch, tiles_dir, tiles_file = Path(self.inputs.batch_file), None, None
        if isdefined(self.inputs.tiles_dir):
            tiles_dir = Path(runtime.cwd, self.inputs.tiles_dir).resolve()
        if tiles_dir is not None and isdefined(self.inputs.keep_tiles) and self.inputs.keep_tiles:
            tiles_file = find_tile(self.inputs.model_file, batch, tiles_dir)
            self._results["tiles_file"] = str(tiles_file)
        model = self.inputs.model_file
        compute_products(model, batch, out_file, n_threads, checkpoint, tiles_dir, tiles_file)
        self._results["out_file"] = str(out_file)
        return runtime


class _BlockInputSpec(InputSpec):
    model_file = File(exists=True, mandatory=True, desc="the model without its contrasts")
    fingerprint = _fingerprint()
    block = traits.Int(mandatory=True, desc="number of the voxel block")
    n_procs = threads_trait()


class _FitInputSpec(_BlockInputSpec):
    batch_files = traits.List(File(exists=True), mandatory=True, desc="images of each batch")
    # The fingerprint is that of all they are made from, and what is in them may be dropped.
    products_files = traits.List(
        File(exists=True), mandatory=True, nohash=True, desc="products of each batch"
    )


class _FitOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="estimates of the block")


class FitModel(BLMInterface):
    """Fit a model at every voxel of a block.

    A linear model by ordinary least squares, a mixed model by (restricted) maximum likelihood.
    """

    input_spec = _FitInputSpec
    output_spec = _FitOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.estimates import compute_estimates

        out_file = Path(runtime.cwd, "estimates.blm")
        compute_estimates(
            self.inputs.model_file,
            self.inputs.batch_files,
            self.inputs.products_files,
            self.inputs.block,
            self.inputs.fingerprint,
            out_file,
            self.inputs.n_procs,
        )
        self._results["out_file"] = str(out_file)
        return runtime


class _ComputeContrastsInputSpec(_BlockInputSpec):
    contrasts_file = File(exists=True, mandatory=True, desc="the contrasts")
    estimates_file = File(exists=True, mandatory=True, desc="estimates of the block")


class _ComputeContrastsOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="statistics of the block")


class ComputeContrasts(BLMInterface):
    """Test every contrast at a block of voxels, from saved estimates."""

    input_spec = _ComputeContrastsInputSpec
    output_spec = _ComputeContrastsOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.statistics import compute_statistics

        out_file = Path(runtime.cwd, "statistics.blm")
        compute_statistics(
            self.inputs.model_file,
            self.inputs.contrasts_file,
            self.inputs.estimates_file,
            self.inputs.block,
            self.inputs.fingerprint,
            out_file,
            self.inputs.n_procs,
        )
        self._results["out_file"] = str(out_file)
        return runtime


class _AssembleMapsInputSpec(InputSpec):
    model_file = File(exists=True, mandatory=True, desc="the model without its contrasts")
    contrasts_file = File(exists=True, mandatory=True, desc="the contrasts")
    batch_files = traits.List(File(exists=True), mandatory=True, desc="images of each batch")
    estimates_files = traits.List(File(exists=True), mandatory=True, desc="estimates by block")
    statistics_files = traits.List(File(exists=True), mandatory=True, desc="statistics by block")
    products_files = traits.List(
        File(exists=True),
        nohash=True,
        desc="products of each batch, to be emptied when the maps are there; all images are read "
        "again if their estimates have to be made anew",
    )
    tiles_files = traits.List(
        File(),
        nohash=True,
        desc="values of the images of each batch; others beside them, of earlier runs, are removed "
        "when the maps are there",
    )
    fingerprint = _fingerprint()
    model_id = traits.Str(
        mandatory=True, desc="fingerprint of the model and its contrasts, however it is planned"
    )
    inputs_file = File(exists=True, desc="the configuration, copied to the maps")
    study_file = File(exists=True, desc="of a model of a formula: its table, and who was left out")
    out_dir = _out_dir()
    compress = traits.Bool(False, usedefault=True, desc="write .nii.gz instead of .nii")
    overwrite = overwrite_trait()
    allow_empty = allow_empty_trait()


class AssembleMaps(BLMInterface):
    """Put all blocks together into maps, which appear only when all are complete."""

    input_spec = _AssembleMapsInputSpec
    output_spec = MapsOutputSpec
    folder: ClassVar[str] = "blm"  # for the maps, without out_dir

    @property
    def always_run(self) -> bool:
        """Whether the maps have to be looked at though the inputs are the same.

        Maps in a folder of the user may have been changed or removed; those that were not
        are not written again.
        """
        return isdefined(self.inputs.out_dir)

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.io.publish import Claim
        from nipype_blm.stages.assemble import assemble_maps, check_fitted
        from nipype_blm.stages.products import empty_products
        from nipype_blm.stages.tiles import remove_others

        out_dir = _find_out_dir(self.inputs, runtime, self.folder)
        work_dir = Path(self.inputs.model_file).parent  # that of the plan, which knew it before
        maps = assemble_maps(
            self.inputs.model_file,
            self.inputs.contrasts_file,
            self.inputs.batch_files,
            self.inputs.estimates_files,
            self.inputs.statistics_files,
            self.inputs.fingerprint,
            out_dir,
            Claim(self.inputs.model_id, work_dir, self.inputs.overwrite),
            self.inputs.compress,
            Path(self.inputs.inputs_file) if isdefined(self.inputs.inputs_file) else None,
            self.inputs.study_file if isdefined(self.inputs.study_file) else None,
        )
        if not self.inputs.allow_empty:
            check_fitted(maps.n_fitted, maps.status_file, maps.notices)
        if isdefined(self.inputs.products_files) and maps.n_fitted:
            empty_products(self.inputs.products_files, self.inputs.estimates_files)
        if isdefined(self.inputs.tiles_files) and maps.n_fitted:
            remove_others([Path(path) for path in self.inputs.tiles_files])
        self._results = maps_as_outputs(maps, out_dir)
        return runtime


class BLMInputSpec(ModelInputSpec):
    """A Big Linear Model, and how it is run."""

    out_dir = _out_dir()
    work_dir = Directory(
        nohash=True,
        desc="folder for intermediate files, which stay in it, of one model each: a run with more "
        "images, or with other contrasts, goes on from them; outside of the folder of a node, "
        "which Nipype empties; default: the working directory, where they are removed in the end",
    )
    keep = traits.Enum(
        "all",
        "tiles",
        usedefault=True,
        nohash=True,
        desc="what stays in work_dir: all; or tiles, also the values of the images by voxel, from "
        "which a run with another design reads them",
    )
    n_procs = threads_trait()

    def _get_sorteddict(
        self,
        objekt: Any,
        dictwithhash: bool = False,
        hash_method: str | None = None,
        hash_files: bool = True,
    ) -> Any:
        """Return what Nipype hashes of a value; of a file not only size and time.

        Files that were exchanged, or written again with their old time, have the same ones.
        """
        hashed = super()._get_sorteddict(objekt, dictwithhash, hash_method, hash_files)
        is_file = hash_files and isinstance(objekt, str) and Path(objekt).is_file()
        if not is_file or hash_method == "content":
            return hashed
        state = stat_file(Path(objekt))
        return (*hashed, *state) if dictwithhash else (hashed, *state)


class BLM(BLMInterface):
    """Fit a Big Linear Model in one process.

    Give `in_files` as a list of images rather than as a text file, so that Nipype notices
    when one of them changes.

    Examples
    --------
    >>> from nipype_blm.interfaces import BLM
    >>> blm = BLM(n_procs=2)
    >>> blm.inputs.in_files = ["sub-01.nii.gz", "sub-02.nii.gz", "sub-03.nii.gz"]
    >>> blm.inputs.design_file = "design.csv"
    >>> blm.inputs.contrasts = [{"name": "mean", "vector": [1]}]
    >>> result = blm.run()  # doctest: +SKIP
    """

    input_spec = BLMInputSpec
    output_spec = MapsOutputSpec
    _can_resume = True  # else Nipype empties the folder of a node whose run was killed
    _model: ClassVar[str] = "blm"

    @property
    def always_run(self) -> bool:
        """Whether a folder of the user does not have the maps of this model any more."""
        from nipype_blm.results.saved import has_model

        if not isdefined(self.inputs.out_dir):
            return False
        out_dir = Path(self.inputs.out_dir)
        if not out_dir.is_absolute():  # below the node's own folder
            return False
        fields, problems = check(defined_traits(self.inputs), self._model)
        is_whole = is_written_for(out_dir / "inputs.yml", to_yaml(fields)) and has_model(out_dir)
        return bool(problems) or not is_whole

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and let an interrupt through, which Nipype takes for an error of its node.

        It would empty the folder of a node that has failed, but not of one that was interrupted.
        """
        self._is_interrupted = False
        result = super().run(*args, **kwargs)
        if self._is_interrupted:
            raise KeyboardInterrupt
        return result

    @contextmanager
    def _noting_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._is_interrupted = True
            raise

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.io.publish import Claim
        from nipype_blm.stages.assemble import check_fitted
        from nipype_blm.stages.growth import EarlierPlaces
        from nipype_blm.stages.plan import check_out_dir, prepare_run
        from nipype_blm.stages.run import WORK_FOLDER, run_model, work_folder

        out_dir = _find_out_dir(self.inputs, runtime, self._model)
        kept = {"keep": self.inputs.keep} if isdefined(self.inputs.work_dir) else {}
        given = defined_traits(self.inputs)
        request = read(given, self._model, out_dir=str(out_dir), **kept)
        work, parent, places = self.inputs.work_dir, Path(runtime.cwd), None
        if isdefined(work):
            parent = Path(runtime.cwd, work).resolve()
            places = EarlierPlaces.of_work_folder(parent / WORK_FOLDER)
        run = prepare_run(request, work_folder=parent, places=places)
        check_out_dir(run, request, parent)
        claim = Claim(run.model_id, parent, request.overwrite)
        warn_of(run.notices)
        n_threads = run.plan.threads(self.inputs.n_procs, request.max_bytes)
        parent.mkdir(parents=True, exist_ok=True)
        with work_folder(parent, isdefined(work)) as work_dir, self._noting_interrupt():
            inputs_file = write_inputs(work_dir / "inputs.yml", request.record)
            maps = run_model(
                run, work_dir, out_dir, claim, n_threads, request.compress, inputs_file
            )
        if not request.allow_empty:
            check_fitted(maps.n_fitted, maps.status_file, maps.notices)
        self._results = maps_as_outputs(maps, out_dir)
        return runtime
