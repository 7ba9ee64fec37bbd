"""The interface and the workflow that compare two models, after workflows that fit them."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline.engine import Workflow
from numpy.testing import assert_array_equal
from saved_models import write_mixed_model

from nipype_blm.core.mixtures import log_mixture_sf
from nipype_blm.errors import InputError
from nipype_blm.interfaces.compare import OUTPUTS, CompareModels
from nipype_blm.results.compare import compare_models
from nipype_blm.workflows.compare import init_compare_wf


def read(path):
    return np.asarray(nib.load(path).dataobj)


def write_mixed(plain: Path, folder: Path, gain: float) -> Path:
    """Write what a random intercept without a variance gives by ML, and `gain` beyond it."""
    folder.mkdir(exist_ok=True)
    labels = [str(i % 3) for i in range(12)]
    write_mixed_model(plain, folder, labels, np.ones((12, 1)), name="site", reml=False)
    for kind in ("mask", "n", "edf", "status"):
        shutil.copy(plain / f"blm_vox_{kind}.nii", folder / f"blmm_vox_{kind}.nii")
    image = nib.load(plain / "blm_vox_llh.nii")
    llh = np.asarray(image.dataobj) + gain
    nib.save(nib.Nifti1Image(llh, image.affine), folder / "blmm_vox_llh.nii")
    return folder


@pytest.fixture
def folders(study) -> tuple[Path, Path]:
    """The results of a model without random effects, and of one with them."""
    plain = study.folder / "plain"
    study.workflow("fit", out_dir=plain).run()
    return plain, write_mixed(plain, study.folder / "mixed", gain=2.0)


def check_maps(outputs, plain: Path) -> None:
    """Assert that Chi2 is 4 everywhere in the mask."""
    mask = read(plain / "blm_vox_mask.nii")
    assert_array_equal(read(outputs.blmm_vox_mask), mask)
    chi2 = read(outputs.blmm_vox_Chi2)
    # Double precision, of log-likelihoods around 20.
    np.testing.assert_allclose(chi2, 4 * mask, rtol=1e-11)
    expected = -log_mixture_sf(chi2, (0, 1)) / np.log(10)
    np.testing.assert_allclose(read(outputs.blmm_vox_Chi2lp), expected, rtol=1e-14)


def test_the_interface_gives_the_maps_of_the_stage_and_what_they_mean(folders, tmp_path):
    plain, mixed = folders
    outputs = CompareModels(smaller_dir=plain, larger_dir=mixed).run(cwd=tmp_path).outputs
    check_maps(outputs, plain)
    assert Path(outputs.out_dir) == tmp_path / "comparison"
    assert (outputs.dofs, outputs.criterion, outputs.notices) == ([0, 1], "ML", [])
    n = int(read(outputs.blmm_vox_mask).sum())
    assert outputs.counts["COMPARED"] == n
    assert sum(outputs.counts.values()) == read(outputs.blmm_vox_mask).size
    direct = compare_models(plain, mixed, tmp_path / "direct", tmp_path)
    for name, path in direct.files.items():
        assert path.read_bytes() == Path(getattr(outputs, name)).read_bytes()


def test_models_that_cannot_be_compared_stop_the_interface_with_the_reason(folders, tmp_path):
    plain, _ = folders
    with pytest.raises(InputError, match="Neither model has random effects"):
        CompareModels(smaller_dir=plain, larger_dir=plain).run(cwd=tmp_path)


@pytest.mark.parametrize("out_dir", [None, "comparison"])
def test_the_workflow_takes_the_folder_of_a_workflow_that_fits(study, folders, out_dir):
    plain, mixed = folders
    fit = study.workflow("fit", out_dir=plain)
    options = {} if out_dir is None else {"out_dir": study.folder / out_dir}
    compare = init_compare_wf(**options)
    compare.inputs.inputnode.larger_dir = str(mixed)
    both = Workflow("both", base_dir=str(study.folder / "work"))
    both.connect(fit, "outputnode.out_dir", compare, "inputnode.smaller_dir")
    graph = both.run()
    [node] = [node for node in graph.nodes if node.name == "compare"]
    check_maps(node.result.outputs, plain)
    folder = Path(node.result.outputs.out_dir)
    expected = study.folder / (out_dir or "work/both/compare_wf/comparison")
    assert folder == expected.resolve()


def test_a_second_run_writes_only_what_changed(study, folders, read_times):
    plain, mixed = folders
    out_dir = study.folder / "comparison"

    def run() -> None:
        compare = init_compare_wf(out_dir=out_dir)
        compare.base_dir = str(study.folder / "work")
        compare.inputs.inputnode.trait_set(smaller_dir=str(plain), larger_dir=str(mixed))
        compare.run()

    run()
    before = read_times(out_dir, "*.nii")
    assert len(before) == 4
    run()
    assert read_times(out_dir, "*.nii") == before
    write_mixed(plain, mixed, gain=3.0)  # in the folders, into which Nipype does not look
    run()
    assert read_times(out_dir, "*.nii") != before
    mask = read(out_dir / "blmm_vox_mask.nii")
    np.testing.assert_allclose(read(out_dir / "blmm_vox_Chi2.nii"), 6 * mask, rtol=1e-11)


def test_two_comparisons_in_one_folder_are_refused_unless_they_may_overwrite(study, folders):
    plain, mixed = folders
    other = write_mixed(plain, study.folder / "other", gain=3.0)
    out_dir = study.folder / "comparison"

    def run(larger: Path, name: str, **options) -> None:
        compare = init_compare_wf(out_dir=out_dir, name=name, **options)
        compare.base_dir = str(study.folder / "work")
        compare.config["execution"] = {"crashdump_dir": compare.base_dir}
        compare.inputs.inputnode.trait_set(smaller_dir=str(plain), larger_dir=str(larger))
        compare.run()

    run(mixed, "one")
    before = read(out_dir / "blmm_vox_Chi2.nii")
    with pytest.raises(Exception, match=r"another model, made in .*/one/compare; .*/two/compare"):
        run(other, "two")
    assert_array_equal(read(out_dir / "blmm_vox_Chi2.nii"), before)
    run(mixed, "two")  # the same comparison
    run(other, "two", overwrite=True)
    mask = read(out_dir / "blmm_vox_mask.nii")
    np.testing.assert_allclose(read(out_dir / "blmm_vox_Chi2.nii"), 6 * mask, rtol=1e-11)


def test_the_output_node_has_every_output_of_the_interface():
    workflow = init_compare_wf()
    assert set(workflow.outputs.outputnode.copyable_trait_names()) == set(OUTPUTS)
    assert set(OUTPUTS) == set(CompareModels.output_spec().copyable_trait_names())
    edges = [data["connect"] for _, _, data in workflow._graph.edges(data=True)]
    assert {source for edge in edges for source, _ in edge} >= set(OUTPUTS)
