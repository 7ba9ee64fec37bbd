"""Run a peer with two one-thread workers: ``PEER_PYTHON run_blm_py.py blm|blmm CONFIG.yml``.

Their own ``clusterType: local`` makes as many workers and threads as the machine has cores.
"""

import functools
import importlib
import os
import sys

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"


def main() -> None:
    import dask.distributed

    dask.distributed.LocalCluster = functools.partial(
        dask.distributed.LocalCluster,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        memory_limit=0,
    )
    package = sys.argv.pop(1)  # the rest is read by the peer
    importlib.import_module(f"{package}.{package}_cluster")._main()


if __name__ == "__main__":  # the workers import this file
    main()
