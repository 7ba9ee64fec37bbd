"""Does the memory that ``blm`` takes grow with the number of images?"""

from harness import Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_brains, make_covariates, t_contrasts, write_config

N_PARAMS = 4


def main() -> None:
    arguments = parse_arguments(
        __doc__,
        n={"type": int, "nargs": "+", "default": [500, 1000, 2000, 5000], "help": "images"},
    )
    data = arguments.data
    make_brains(data)
    sides = {}
    for n in arguments.n:
        folder = data / f"memory_{n}"
        config = write_config(
            folder / "config.yml",
            link_brains(data, n),
            make_covariates(folder, n, N_PARAMS),
            folder / "out",
            contrasts=t_contrasts([0] * (N_PARAMS - 1) + [1]),
            analysis_mask=str(data / "data" / "mask.nii"),
        )
        sides[str(n)] = Side([arguments.blm, config], folder / "out")
    measured = compare(sides, arguments.repeats, data, interval_s=0.02)
    aims = []
    for key, what in (("pss_mib", "all processes"), ("rss_mib", "largest process")):
        peaks = [side[key] for side in measured.values()]
        question = f"{what}: largest peak / that of {arguments.n[0]} images"
        aims.append(aim(question, max(peaks) / peaks[0], "<=", 1.1))
    write_result(arguments.results, "memory", aims, sides=measured)


if __name__ == "__main__":
    main()
