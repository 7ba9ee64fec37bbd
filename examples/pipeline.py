"""A BLM node between a node that finds the images and one that thresholds each z map.

Run it in a folder with images/*.nii.gz and design.csv, such as the one that
examples/blm_demo.py writes:

    cd blm_demo && python ../examples/pipeline.py
"""

from pathlib import Path

from nipype import Function, MapNode, Node, SelectFiles, Workflow

from nipype_blm.interfaces import BLM


def threshold(z_map, mask_file):
    """Return a z map with a false discovery rate of 5 %."""
    from pathlib import Path

    from nilearn.glm import threshold_stats_img

    image, _ = threshold_stats_img(z_map, mask_file, alpha=0.05, height_control="fdr")
    image.to_filename("thresholded.nii.gz")
    return str(Path("thresholded.nii.gz").absolute())


study = Path.cwd()
find = Node(SelectFiles({"images": "images/*.nii.gz"}, base_directory=study), name="find")
fit = Node(BLM(design_file=study / "design.csv", out_dir=study / "maps"), name="fit")
fit.inputs.contrasts = [{"name": "age", "vector": [0, 1, 0]}]
cut = MapNode(Function(function=threshold), iterfield=["z_map", "mask_file"], name="cut")

workflow = Workflow("age", base_dir=study / "work")
workflow.connect(find, "images", fit, "in_files")
workflow.connect(fit, "zscore_maps", cut, "z_map")
workflow.connect(fit, "contrast_masks", cut, "mask_file")
workflow.run()
