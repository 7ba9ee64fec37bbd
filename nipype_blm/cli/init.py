"""``nipype-blm init``: write a configuration to start from."""

import argparse
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import OK, add_common_options, describe
from nipype_blm.cli.study import add_study_options, collect_options
from nipype_blm.errors import InputError


def add_init(tools: Any) -> None:
    """Add the command ``init`` to those of ``nipype-blm``."""
    parser = tools.add_parser("init", help="write a configuration to start from")
    describe(
        parser,
        "Write a commented configuration of a model of a BIDS data set or a table: what it has, "
        "what was given, and every other field with its default.",
        ['bids study.yml --formula "~ age"', "participants.tsv study.yml"],
    )
    parser.add_argument("config", type=Path, metavar="SOURCE", help="BIDS data set, or TABLE.tsv")
    parser.add_argument("file", type=Path, metavar="FILE.yml", help="configuration to write")
    add_study_options(parser)
    add_common_options(parser)
    parser.set_defaults(action=_init)


def _init(arguments: argparse.Namespace) -> int:
    from nipype_blm.cli.source import find_kind
    from nipype_blm.frontends.options import read_fields
    from nipype_blm.frontends.template import write_template
    from nipype_blm.io.files import write_if_changed

    source, file = (path.expanduser().absolute() for path in (arguments.config, arguments.file))
    kind = find_kind(source, is_formula_given=True)
    if kind == "configuration":
        raise InputError(f"SOURCE {source} is a configuration already; edit it.")
    if file.exists():
        raise InputError(f"FILE.yml {file} is there already; remove it, or choose another name.")
    if not file.parent.is_dir():
        raise InputError(f"FILE.yml {file}: there is no folder {file.parent}; make it first.")
    given = read_fields(source, collect_options(arguments), is_bids=kind == "bids")
    write_if_changed(file, write_template(source, given, is_bids=kind == "bids").encode())
    if not arguments.quiet:
        print(f"{file} is written.  Edit it, then run: nipype-blm fit {file} OUT --check")
    return OK
