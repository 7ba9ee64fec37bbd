"""What this machine has."""

import os


def count_cores() -> int:
    """Return the cores that this process may use; not every system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
