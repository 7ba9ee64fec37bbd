"""Does ``blmm`` stay within MAXMEM, whatever the number of images and subjects?

Each subject has five images, so that Z has a fifth as many columns as there are images.
"""

from typing import Any

from bench_lmm_reading import make_config
from harness import Side, aim, compare, parse_arguments, write_result
from images import link_brains, make_brains

MAXMEM = 2**30


def main() -> None:
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "default": [500, 1000, 2000, 5000]}
    arguments = parse_arguments(__doc__, "blmm", n=sizes | {"help": "images"})
    data = arguments.data
    make_brains(data)
    sides = {}
    for n in arguments.n:
        folder = f"blmm memory {n}"
        config = make_config(
            data,
            folder,
            link_brains(data, n),
            numNodes=1,
            MAXMEM=f"{MAXMEM}",
            analysis_mask=str(data / "data" / "mask.nii"),
        )
        sides[str(n)] = Side([arguments.blmm, config], data / folder / "out")
    measured = compare(sides, arguments.repeats, data, interval_s=0.02)
    aims = []
    for key, what in (("pss_mib", "all processes"), ("rss_mib", "largest process")):
        peak = max(side[key] for side in measured.values())
        aims.append(aim(f"{what}: largest peak / MAXMEM", peak * 2**20 / MAXMEM, "<=", 1))
    write_result(arguments.results, "lmm_memory", aims, MAXMEM=MAXMEM, sides=measured)


if __name__ == "__main__":
    main()
