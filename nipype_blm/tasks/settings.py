"""Dask's settings for workers that run one node at a time; a user's own settings win."""

from typing import Any

import dask.config

# Nodes hand on file names, not data: a worker's memory is that of the node it runs.
SETTINGS: dict[str, Any] = {
    # Spilling results of tasks to disk cannot free memory that a node holds.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # A pause holds back the next node only, and nothing would end it if memory stayed in use.
    "distributed.worker.memory.pause": False,
    # Beyond its memory a worker is started again, before the scheduler kills the whole job.
    "distributed.worker.memory.terminate": 0.95,
    # Locks on files are slow or missing on network file systems.
    "distributed.worker.use-file-locking": False,
    # Profiles of every thread, kept for hours, grow the memory of long runs.
    "distributed.worker.profile.interval": "10s",
    "distributed.worker.profile.cycle": "1000s",
    # These pages would be served without authentication.
    "distributed.worker.http.routes": [],
    # What is lost is found out by `JobScaling`, before Dask gives a job up whose nanny is still
    # starting its worker again.
    "distributed.deploy.lost-worker-timeout": "60s",
    # Programs in C may keep Python from answering for long; lost machines break connections.
    "distributed.scheduler.worker-ttl": "1h",
    # Nodes may have processes of their own.
    "distributed.worker.daemon": False,
}


def set_defaults() -> None:
    """Make `SETTINGS` Dask's defaults in this process, and in workers that it starts."""
    dask.config.update_defaults(_nest(SETTINGS))


def _nest(settings: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested
