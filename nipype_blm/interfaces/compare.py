"""Comparison of two fitted models."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, isdefined, traits

from nipype_blm.errors import tell
from nipype_blm.frontends.traits import WORDS
from nipype_blm.interfaces.base import BLMInterface, InputSpec, overwrite_trait
from nipype_blm.results.compare import DECLARED


class _CompareModelsInputSpec(InputSpec):
    smaller_dir = Directory(
        exists=True, mandatory=True, desc="results of blm or blmm: the model with fewer effects"
    )
    larger_dir = Directory(
        exists=True, mandatory=True, desc="results of blmm: the model with more effects"
    )
    out_dir = Directory(desc="folder for the maps; default: comparison in the working directory")
    overwrite = overwrite_trait()


class _CompareModelsOutputSpec(TraitedSpec):
    out_dir = Directory(exists=True, desc="folder of all maps and their sidecars")
    dofs = traits.List(traits.Int, desc="degrees of freedom of the equal chi-square mixture")
    criterion = traits.Str(desc="likelihood that was compared: ML or REML")
    counts = traits.Dict(traits.Str, traits.Int, desc="voxels of each status")
    notices = traits.List(traits.Str, desc="what was excluded, swapped or is imprecise")


for _map in DECLARED:
    _CompareModelsOutputSpec.add_class_trait(
        _map.name_file("blmm"), File(exists=True, desc=_map.words)
    )
# Every output; a builder connects them all.
OUTPUTS = tuple(_CompareModelsOutputSpec().copyable_trait_names())


class CompareModels(BLMInterface):
    """Test the larger of two nested models against the smaller one at every voxel.

    Runs every time, since Nipype does not look into the folders; maps that are the same are
    not written again.

    Examples
    --------
    >>> from nipype_blm.interfaces.compare import CompareModels
    >>> compare = CompareModels()
    >>> compare.inputs.smaller_dir = "intercept"  # doctest: +SKIP
    >>> compare.inputs.larger_dir = "slope"  # doctest: +SKIP
    >>> result = compare.run()  # doctest: +SKIP
    """

    input_spec = _CompareModelsInputSpec
    output_spec = _CompareModelsOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.results.compare import compare_models

        given = self.inputs.out_dir if isdefined(self.inputs.out_dir) else "comparison"
        out_dir = Path(runtime.cwd, given).resolve()
        smaller, larger = Path(self.inputs.smaller_dir), Path(self.inputs.larger_dir)
        result = compare_models(smaller, larger, out_dir, Path(runtime.cwd), self.inputs.overwrite)
        self._results = {name: str(path) for name, path in result.files.items()} | {
            "out_dir": str(out_dir),
            "dofs": list(result.dofs),
            "criterion": result.criterion,
            "counts": {status.name: n for status, n in result.counts.items()},
            "notices": [tell(notice, WORDS) for notice in result.notices],
        }
        return runtime
