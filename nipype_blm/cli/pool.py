"""``nipype-blm pool``: pools of workers that outlive the runs that use them."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import FAILED, OK, add_common_options, describe, say
from nipype_blm.errors import InputError
from nipype_blm.private import make_private
from nipype_blm.units import GIB

_DEFAULT_FILE = "~/.nipype_blm/pool.json"
_EXAMPLES = {
    "start": ["--pool pool.json --n-workers 4", "--cluster slurm --plugin-args workers.yml"],
    "status": ["--pool pool.json"],
    "stop": ["--pool pool.json"],
}
_SECONDS_TO_START = 120
_SECONDS_TO_STOP = 60
_NO_TLS = (
    "notice: security is false: whoever reaches this pool can run any program as you.  What uses "
    "it has to allow that, by --allow-insecure, or by the argument allow_insecure: true of the "
    "plugin."
)


def add_pool(tools: Any) -> None:
    """Add the command ``pool``, also by its old name ``cluster``, to those of ``nipype-blm``."""
    parser = tools.add_parser("pool", help="pools of workers that outlive the runs")
    examples = [f"{action} {given[0]}" for action, given in _EXAMPLES.items()]
    describe(parser, "Pools of workers that outlive the runs that use them.", examples)
    tools.choices["cluster"] = parser  # which also means voxels, and is not shown
    _add_actions(parser)


def _add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--pool",
        "--file",
        dest="file",
        type=_read_path,
        default=_DEFAULT_FILE,
        metavar="POOL.json",
        help=f"file by which runs find the pool (default {_DEFAULT_FILE}); keep it to yourself: "
        "it holds a key",
    )

    start = actions.add_parser("start", parents=[shared], help="start a pool in the background")
    start.add_argument("--cluster", default="local", help="local (default), slurm, sge, ...")
    start.add_argument("--n-workers", type=int, metavar="N", help="most workers at a time")
    start.add_argument(
        "--plugin-args", type=Path, metavar="FILE.yml", help="further arguments of DaskPlugin"
    )
    start.add_argument(
        "--end-after",
        default="1h",
        metavar="TIME",
        help="the pool ends when it has had nothing to do for this time (default 1h)",
    )
    start.set_defaults(action=_start)

    attached = argparse.ArgumentParser(add_help=False, parents=[shared])
    attached.add_argument(
        "--allow-insecure",
        action="store_true",
        help="also a POOL.json that somebody else could have written, or a pool without TLS",
    )
    status = actions.add_parser("status", parents=[attached], help="what the pool does")
    status.set_defaults(action=_status)

    stop = actions.add_parser("stop", parents=[attached], help="end the pool and cancel its jobs")
    stop.set_defaults(action=_stop)

    run = actions.add_parser("run", parents=[attached])  # as it was called once
    run.add_argument("list", nargs="*", metavar="FILE")
    run.add_argument("--work-dir", help=argparse.SUPPRESS)
    run.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    run.set_defaults(action=_refuse_run)
    texts = {
        "start": "Start a pool in the background.  Runs use it by its file: `--pool POOL.json`.",
        "status": "Say what a pool does, and which workers it has.",
        "stop": "End a pool and cancel its jobs.",
    }
    for action, text in texts.items():
        add_common_options(actions.choices[action])
        describe(actions.choices[action], text, _EXAMPLES[action])


def _read_path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _tell(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text)


def _start(arguments: argparse.Namespace) -> int:
    from dask.utils import parse_timedelta

    from nipype_blm.cli.plugins import read_arguments
    from nipype_blm.tasks.options import parse_options
    from nipype_blm.tasks.poolfile import read_pool_file

    plugin_args = {"cluster": arguments.cluster} | read_arguments(arguments.plugin_args)
    if arguments.n_workers is not None:
        plugin_args["n_workers"] = arguments.n_workers
    options = parse_options(plugin_args)
    if options.batch_system is None:
        raise InputError(
            "A pool cannot be made of one that is there already; give the cluster to start it on, "
            "and no scheduler_file."
        )
    try:
        parse_timedelta(arguments.end_after)
    except (ValueError, LookupError) as error:
        raise InputError(
            f"--end-after {arguments.end_after} is not a time such as 90s, 30m or 1h."
        ) from error
    path = arguments.file
    if path.exists():
        raise InputError(
            f"{path} names a pool already; use it, end it with `nipype-blm pool stop`, or give "
            "another file by --pool.  If it is long dead, remove the file."
        )
    make_private(path.parent, "The folder of --pool,")
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)  # if it is a link, what it leads to stays
    with open(log, "x", opener=partial(os.open, mode=0o600)) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nipype_blm.tasks.service", str(path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=path.parent,  # that of this command may be removed while the pool runs
            start_new_session=True,
        )
    assert process.stdin is not None
    given = {"plugin_args": plugin_args, "end_after": arguments.end_after}
    try:
        process.stdin.write(json.dumps(given, default=str).encode())
        process.stdin.close()
        for _ in range(10 * _SECONDS_TO_START):
            if path.exists() and read_pool_file(path, allow_insecure=True).pid == process.pid:
                _tell(arguments, f"The pool of {path} is ready; its log is {log}.")
                if options.security is False:
                    say(_NO_TLS)
                return OK
            if process.poll() is not None:
                break
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()
        raise
    process.terminate()
    say(f"error: the pool did not start; the end of {log}:")
    say("\n".join(log.read_text().splitlines()[-15:]))
    return FAILED


def _status(arguments: argparse.Namespace) -> int:
    from nipype_blm.tasks.poolfile import connect

    client, found = connect(arguments.file, arguments.allow_insecure)
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        running = {worker: keys for worker, keys in client.processing().items() if keys}
    _tell(
        arguments,
        f"{arguments.file}: process {found.pid} on {found.host} since {found.started}\n"
        f"{len(workers)} workers, {len(running)} of them busy, "
        f"{sum(map(len, running.values()))} nodes handed out",
    )
    for worker in workers:
        memory = worker["metrics"]["memory"] / GIB
        _tell(arguments, f"  {worker['name']} on {worker['host']}: {memory:.2f} GiB")
    return OK


def _stop(arguments: argparse.Namespace) -> int:
    from nipype_blm.tasks.poolfile import connect
    from nipype_blm.tasks.service import STOP

    path = arguments.file
    client, _ = connect(path, arguments.allow_insecure)
    with client:
        client.log_event(STOP, os.uname().nodename)
    for _ in range(10 * _SECONDS_TO_STOP):
        if not path.exists():
            _tell(arguments, f"The pool of {path} has ended.")
            return OK
        time.sleep(0.1)
    say(f"error: the pool of {path} did not end within {_SECONDS_TO_STOP} s.")
    return FAILED


def _refuse_run(arguments: argparse.Namespace) -> int:
    words = ["nipype-blm", "commands", *arguments.list[:1], "--pool", str(arguments.file)]
    if arguments.work_dir is not None:
        words += ["--out", str(arguments.work_dir)]
    raise InputError(f"Lists of commands have a command of their own: `{shlex.join(words)}`.")
