"""A pool that outlives the runs that use it: ``python -m nipype_blm.tasks.service FILE``."""

import json
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dask.utils import parse_timedelta

from nipype_blm.signals import interruptible
from nipype_blm.tasks.options import Resources, parse_options
from nipype_blm.tasks.poolfile import remove_pool_file, write_pool_file
from nipype_blm.tasks.pools import BatchPool, open_pool

STOP = "nipype-blm-stop"  # topic of the event that ends a pool
_SECONDS_BETWEEN_CHECKS = 1.0


def serve(path: Path, plugin_args: Mapping[str, Any], end_after: str = "1h") -> None:
    """Keep a pool until it is told to stop, or has had nothing to do for a time.

    Parameters
    ----------
    path : Path
        File by which runs find the pool; gone when it ends.
    plugin_args : mapping
        Of `DaskPlugin`.
    end_after : str
        Time without a node after which the pool ends.
    """
    logs = path.with_name(f"{path.stem}_logs")
    pool = open_pool(parse_options(plugin_args), Resources(1, 0.0), logs)
    assert isinstance(pool, BatchPool)
    stop = threading.Event()
    pool.client.subscribe_topic(STOP, lambda _: stop.set())
    try:
        write_pool_file(path, _describe(pool), pool.security)
        _wait(pool, stop, parse_timedelta(end_after, "s"))
    finally:
        pool.close()
        remove_pool_file(path)


def _describe(pool: BatchPool) -> dict[str, Any]:
    return {
        "address": pool.address,
        "worker": pool.worker._asdict() if pool.worker else None,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "logs": str(pool.log_folder),
    }


def _wait(pool: BatchPool, stop: threading.Event, end_after: float) -> None:
    last_busy = time.monotonic()
    while not stop.wait(_SECONDS_BETWEEN_CHECKS):
        pool.check()
        if pool.count_unfinished():
            last_busy = time.monotonic()
        elif time.monotonic() - last_busy > end_after:
            return


def main() -> None:
    """Serve a pool; its arguments are read from standard input, as JSON."""
    given = json.load(sys.stdin)
    with interruptible():
        try:
            serve(Path(sys.argv[1]), **given)
        except KeyboardInterrupt:
            pass
        except Exception:
            traceback.print_exc()  # to the log, which outlives the terminal
            sys.exit(1)


if __name__ == "__main__":
    main()
