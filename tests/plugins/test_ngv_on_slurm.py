"""A circuit whose stages are jobs of a real Slurm, by Nipype's own plugin."""

import json
import re

import yaml
from same_circuit import list_differences, read_circuit

from nipype_blm.ngv.stages import STAGES

LIMIT_S = 900
SOURCE = """
import json, sys
from nipype_blm.workflows.ngv import init_ngv_wf

given = json.loads(sys.argv[1])
workflow = init_ngv_wf(until=["integrity"], **given)
workflow.base_dir = f"{given['out_dir']}/work"
workflow.config["execution"] = {
    "crashdump_dir": workflow.base_dir, "poll_sleep_duration": "0.5", "job_finished_timeout": "60"
}
workflow.run(plugin="SLURM")
"""
# ArchNGV takes more memory than these nodes give without being asked.
CLUSTER = {"__default__": {"mem": "2G", "time": "00:10:00", "partition": "main"}}

LEFT_OUT = re.compile("tetrahedral|MANIFEST")


def test_a_circuit_of_jobs_is_that_of_one_process(
    slurm, built_circuit, functional_circuit, ngv_python, tmp_path, start_program
):
    """All in `build` is the same, without meshes: each job imports all that is needed anew."""
    config, out = tmp_path / "circuit.yml", tmp_path / "circuit"
    # ArchNGV's own cluster.yaml has a partition and an account of another place.
    fields = {"bioname": str(functional_circuit / "bioname"), "cluster": CLUSTER}
    config.write_text(yaml.safe_dump(fields))
    given = {"config": str(config), "out_dir": str(out), "ngv_python": str(ngv_python)}
    program = start_program(SOURCE, json.dumps(given))
    assert program.wait(LIMIT_S) == 0, program.output
    found, known = read_circuit(out), read_circuit(built_circuit)
    found, known = (
        {name: each for name, each in circuit.items() if not LEFT_OUT.search(name)}
        for circuit in (found, known)
    )
    assert list_differences(found, known) == []
    assert len([name for name in found if name.startswith("morphologies/GLIA_")]) == 5
    batches = list((out / "work").rglob("batchscript_*.sh"))
    assert len(batches) >= len(STAGES) - 3  # it was done by jobs
