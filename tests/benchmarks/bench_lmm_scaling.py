"""How does the cost of a mixed model grow with images, subjects, columns of X and missing values?

One thread, images in memory; each row changes one thing of a design with about 1,000 images of
200 subjects, five columns of X and 20 sites.
"""

from typing import Any

from harness import aim, format_table, parse_arguments, write_result
from lmm_cases import describe, make_case, measure_case, simulate
from threadpoolctl import threadpool_limits

MODELS = ("intercept", "slope", "crossed")
# What changes, and the values it takes; images follow from subjects, five for each.
CONDITIONS: dict[str, list[dict[str, Any]]] = {
    "images": [{"n_subjects": n // 5} for n in (200, 1000, 5000, 20_000)],
    "columns of X": [{"n_params": p} for p in (3, 5, 10, 20, 30)],
    "sites": [{"n_sites": n} for n in (5, 20, 50)],
    "missing": [{"missing": share} for share in (0.0, 0.01, 0.05, 0.2)],
}


def measure_condition(arguments: Any, model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the cost per voxel, by REML."""
    given = dict(given)
    missing = given.pop("missing", 0.0)
    case = make_case(model, **given)
    n_obs, n_params = case.X.shape
    Y = simulate(case, arguments.voxels, missing)
    fitted = describe(measure_case(case, Y, arguments.repeats, criteria=[True])[True])
    levels = " x ".join(str(factor.n_levels) for factor in case.factors)
    return {
        "model": model,
        "images": n_obs,
        "levels": levels,
        "columns": n_params,
        "missing": missing,
    } | {
        key: fitted[key]
        for key in ("reduce_us_per_voxel", "fit_us_per_voxel", "certified", "evaluations_mean")
    }


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        "blmm",
        # Fewer do not pay for the tables of crossed factors.
        voxels={"type": int, "default": 4000, "help": "fitted for each row"},
        models={"nargs": "+", "choices": MODELS, "default": MODELS},
    )
    tables: dict[str, list[dict[str, Any]]] = {}
    with threadpool_limits(1):
        for what, values in CONDITIONS.items():
            tables[what] = []
            for model in arguments.models:
                if what == "sites" and model != "crossed":
                    continue
                for given in values:
                    tables[what].append(measure_condition(arguments, model, given))
                    print(tables[what][-1])
    aims = []
    for model in arguments.models:
        # From 1,000 images on: what the fewest cost hardly depends on their number.
        _, first, *_, last = [row for row in tables["images"] if row["model"] == model]
        cost = [
            (row["reduce_us_per_voxel"] + row["fit_us_per_voxel"]) / row["images"]
            for row in (first, last)
        ]
        question = f"{model}: cost per voxel and image, 20,000 images / 1,000"
        aims.append(aim(question, cost[1] / cost[0], "<=", 1.5))
    text = "\n".join(f"By {what}\n\n{format_table(rows)}" for what, rows in tables.items())
    (arguments.results / "lmm_scaling.txt").write_text(text)
    write_result(arguments.results, "lmm_scaling", aims, tables=tables)


if __name__ == "__main__":
    main()
