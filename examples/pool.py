"""A linear model on a pool of workers.

Run it in a folder with images.txt and design.csv, such as the one that
examples/blm_demo.py writes:

    cd blm_demo && python ../examples/pool.py
"""

from pathlib import Path

from nipype_blm.plugins import DaskPlugin
from nipype_blm.workflows import init_blm_wf

study = Path.cwd()
workflow = init_blm_wf(out_dir=study / "pool_maps", max_mem_gb=1)
workflow.inputs.inputnode.in_files = str(study / "images.txt")
workflow.inputs.inputnode.design_file = str(study / "design.csv")
workflow.inputs.inputnode.contrasts = [{"name": "age", "vector": [0, 1, 0]}]
workflow.base_dir = study / "pool_work"
workflow.run(plugin=DaskPlugin({"cluster": "local", "n_workers": 2}))
