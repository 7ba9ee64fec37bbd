"""Two mixed models of the same images, and the test of one against the other.

Run it in a folder with images.txt, design.csv, person.txt, intercept.csv and random.csv, such as
the one that examples/blmm_demo.py writes:

    cd blmm_demo && python ../examples/mixed_pipeline.py
"""

from pathlib import Path

from nipype import Workflow

from nipype_blm.workflows import init_blmm_wf, init_compare_wf

study = Path.cwd()
workflow = Workflow("slopes", base_dir=study / "slopes_work")
compare = init_compare_wf(out_dir=study / "slopes")
for model, design_file in {"smaller": "intercept.csv", "larger": "random.csv"}.items():
    fit = init_blmm_wf(out_dir=study / model, max_mem_gb=1, reml=True, name=model)
    fit.inputs.inputnode.in_files = str(study / "images.txt")
    fit.inputs.inputnode.design_file = str(study / "design.csv")
    fit.inputs.inputnode.random_factors = [
        {"name": "person", "factor": study / "person.txt", "design": study / design_file}
    ]
    fit.inputs.inputnode.contrasts = [{"name": "slope", "vector": [0, 1, 0]}]
    workflow.connect(fit, "outputnode.out_dir", compare, f"inputnode.{model}_dir")
workflow.run()
