"""Reduce and fit a few voxels, and nothing else: ``run_first_fit.py MODEL``."""

import sys

from lmm_cases import make_case, measure_case, simulate

case = make_case(sys.argv[1])
measure_case(case, simulate(case, 64, missing=0.01), repeats=1, criteria=[True])
