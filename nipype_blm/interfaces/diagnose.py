"""What a finished model leaves: images that stand out, residuals, standardised effects."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.interfaces.base import (
    BLMInterface,
    InputSpec,
    defined_traits,
    memory_trait,
    overwrite_trait,
    results_trait,
    threads_trait,
)
from nipype_blm.interfaces.maps import add_maps, list_maps
from nipype_blm.results.diagnostics import ALL_MAPS, DEFAULT_FOLDER, SAVED
from nipype_blm.units import GIB


class _DiagnoseInputSpec(InputSpec):
    results_dir = results_trait()
    out_dir = Directory(desc="folder for the files; default: diagnostics in the working directory")
    save = traits.List(
        traits.Enum(*SAVED),
        desc="maps of each image (residuals, standardised_residuals, fitted) or of each level of a "
        "random factor (blups)",
    )
    max_mem_gb = memory_trait()
    n_procs = threads_trait()
    overwrite = overwrite_trait()


class _DiagnoseOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of all maps and tables")
    images_file = File(exists=True, desc="table of the images, the worst first")
    levels_file = File(exists=True, desc="table of the levels of random factors; of blmm")
    outlying = traits.List(traits.Str, desc="images that stand out, the worst first")
    se_ratio = traits.Dict(
        traits.Str,
        traits.Float,
        desc="of blmm: median over voxels of the standard error of each contrast over that of "
        "least squares",
    )


add_maps(_DiagnoseOutputSpec, ALL_MAPS)


class Diagnose(BLMInterface):
    """Write what the model of a folder of results leaves, from its images.

    Runs every time, since Nipype does not look into the folder; files that are the same are not
    written again.

    Examples
    --------
    >>> from nipype_blm.interfaces.diagnose import Diagnose
    >>> diagnose = Diagnose(save=["residuals"])
    >>> diagnose.inputs.results_dir = "results"  # doctest: +SKIP
    >>> worst = diagnose.run().outputs.outlying  # doctest: +SKIP
    """

    input_spec = _DiagnoseInputSpec
    output_spec = _DiagnoseOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.diagnostics import diagnose

        given = defined_traits(self.inputs)
        done = diagnose(
            Path(given["results_dir"]),
            Path(runtime.cwd, given.get("out_dir", DEFAULT_FOLDER)).resolve(),
            given.get("save", ()),
            given["n_procs"],
            int(given["max_mem_gb"] * GIB),
            given["overwrite"],
        )
        self._results = list_maps(ALL_MAPS, done.outputs) | {
            "out_dir": str(done.out_dir),
            "images_file": str(done.files["images.tsv"]),
            "outlying": [row.image for row in done.outlying],
            "se_ratio": done.se_ratio,
        }
        if "levels.tsv" in done.files:
            self._results["levels_file"] = str(done.files["levels.tsv"])
        return runtime
