"""Run BLM-py with two one-thread workers: ``PEER_PYTHON run_blm_py.py CONFIG.yml``.

Its own ``clusterType: local`` makes as many workers and threads as the machine has cores.
"""

import functools
import os

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
    from blm.blm_cluster import _main  # reads sys.argv

    _main()


if __name__ == "__main__":  # the workers import this file
    main()
