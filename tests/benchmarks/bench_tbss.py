"""What does `nipype-blm tbss` take, from FA to the report, and every image to every other one?

A cohort of the group FA that TractSeg ships, bent by known fields.  20 people of 2 mm with a
template, 10 people all to all of 2 mm, 20 of 4 mm; and some of the same pairs in one process
without workers.  From these units a plan of 100 and of 1,000 people.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from harness import Usage, aim, format_table, measure, parse_arguments, summarise, write_result

TESTS = Path(__file__).resolve().parents[1]
MOST_CPU_MIN, MOST_OVERHEAD, LEAST_CORRELATION = 8.0, 1.02, 0.95
N_BARE = 15  # pairs in one process
# Registers the pairs that a plan lists, one after the other, and nothing else.
_BARE = """
import sys
from pathlib import Path
from nipype_blm.tbss.pairs import register_pairs
from nipype_blm.tbss.plan import Plan
plan = Plan.read(Path(sys.argv[1]))
for bundle in range(len(plan.pair_bundles)):
    register_pairs(plan, bundle)
"""


def make_people(data: Path, n: int, zoom: float) -> Path:
    """Return the folder of a cohort, made if it is not there."""
    sys.path.insert(0, str(TESTS))
    from fa_cohort import make_cohort

    folder = data / f"tbss {n} of {zoom:g} mm"
    if not (folder / "people.tsv").exists():
        make_cohort(folder, n, zoom, effect=0.08)
    return folder


def run_command(tool: Path, people: Path, out: Path, *options: str) -> Usage:
    """Run the command from the beginning."""
    shutil.rmtree(out, ignore_errors=True)
    pattern = str(people / "fa" / "{participant_id}.nii.gz")
    command = [tool, "tbss", people / "people.tsv", out, "--images", pattern, *options]
    return measure(command, people / "tbss.log")


def run_bare(people: Path, out: Path) -> Usage:
    """Register some of the same pairs in one process."""
    plan = json.loads((out / "work" / "tbss.json").read_text())
    pairs = [pair for bundle in plan["pair_bundles"] for pair in bundle]
    plan["pair_bundles"] = [pairs[:: len(pairs) // N_BARE][:N_BARE]]
    plan["work_dir"] = str(people / "bare")
    shutil.rmtree(plan["work_dir"], ignore_errors=True)
    path = people / "bare.json"
    path.write_text(json.dumps(plan))
    return measure([sys.executable, "-c", _BARE, path], people / "bare.log")


def read_correlations(table: Path) -> list[float]:
    """Return the column of correlations."""
    header, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    column = header.index("correlation")
    return [float(row[column]) for row in rows]


def plan_runs(s_pair: float, mib: float) -> list[dict[str, Any]]:
    """Return what cohorts of other sizes would take, of 2 mm."""
    rows = []
    for n in (100, 1000):
        pairs = n * (n - 1) // 2
        rows.append(
            {
                "people": n,
                "template_cpu_h": round(n * s_pair / 3600, 2),
                "pairs": pairs,
                "all_to_all_cpu_h": round((pairs + n) * s_pair / 3600, 1),
                "all_to_all_h_on_100_workers": round(pairs * s_pair / 3600 / 100, 2),
                "worker_mib": round(mib),
            }
        )
    return rows


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(__doc__ or "", "nipype-blm")
    tool, data, rows, aims = arguments.nipype_blm, arguments.data, {}, []

    def note(name: str, usage: Usage, **more: Any) -> None:
        rows[name] = summarise([usage]) | more
        print(f"{name}: {usage.cpu_s:.1f} CPU s, {usage.wall_s:.1f} s, {usage.pss_mib:.0f} MiB")

    people = make_people(data, 20, 2.0)
    out, template = people / "out", str(people / "template.nii.gz")
    fit = ("--template", template, "--formula", "~ group")
    usage = run_command(tool, people, out, *fit)
    found = read_correlations(out / "subjects.tsv")
    note("20 of 2 mm, template, model and report", usage, least_correlation=min(found))
    aims.append(
        aim("20 people of 2 mm, FA to report: CPU min", usage.cpu_s / 60, "<=", MOST_CPU_MIN)
    )
    aims.append(aim("least correlation with the template", min(found), ">=", LEAST_CORRELATION))
    s_pair, mib = 0.0, 0.0
    for n, zoom in ((10, 2.0), (20, 4.0)):
        people = make_people(data, n, zoom)
        out = people / "pairs"
        pooled = run_command(tool, people, out, "--target", "most_representative", "--no-4d")
        n_pairs = n * (n - 1) // 2
        bare = run_bare(people, out)
        each = bare.cpu_s / N_BARE
        # The command also registers each image but one to the target.
        ratio = pooled.cpu_s / ((n_pairs + n - 1) * each)
        found = read_correlations(out / "pairs.tsv")
        name = f"{n} of {zoom:g} mm, all to all"
        note(name, pooled, pairs=n_pairs, least_correlation=min(found))
        note(f"{name}, in one process", bare, cpu_s_per_pair=round(each, 2))
        aims.append(
            aim(
                f"{name}: CPU of the command / of as many bare registrations",
                ratio,
                "<=",
                MOST_OVERHEAD,
            )
        )
        aims.append(
            aim(f"{name}: least correlation of a pair", min(found), ">=", LEAST_CORRELATION)
        )
        if not s_pair:
            s_pair, mib = each, bare.rss_mib
    plan = plan_runs(s_pair, mib)
    print(format_table(plan))
    write_result(arguments.results, "tbss", aims, rows=rows, plan=plan)


if __name__ == "__main__":
    main()
