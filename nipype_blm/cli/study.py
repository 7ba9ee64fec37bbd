"""The options of ``nipype-blm fit`` for a table or a BIDS data set."""

import argparse
from collections.abc import Sequence
from typing import Any

# Plain data: the checks, which take time to import, come when something is given.
from nipype_blm.frontends.flags import ALL, BIDS, ENTITIES, MODEL, SETTINGS, TABLE, Option

_GROUPS = (
    ("a model of a table or a data set", MODEL),
    ("images of a table", TABLE),
    ("images of a BIDS data set", BIDS),
    ("which values count, what is written, and where", SETTINGS),
)


def add_study_options(parser: argparse.ArgumentParser, with_tables: bool = True) -> None:
    """Add what says which images a model has, and which model."""
    for title, options in _GROUPS:
        if options is TABLE and not with_tables:
            continue
        group = parser.add_argument_group(title)
        for option in options:
            _add_option(group, option)
        if options is BIDS:
            for entity in ENTITIES:
                text = f"{entity} of the images; may be given again"
                group.add_argument(f"--{entity}", action="append", metavar="VALUE", help=text)
            group.add_argument(
                "--filter",
                nargs="+",
                action="extend",
                metavar="ENTITY=VALUE",
                help="further entities, such as task=faces; also without --filter",
            )


def _add_option(group: Any, option: Option) -> None:
    how: dict[str, Any] = {"metavar": option.metavar}
    if option.value is not None:
        how = {"action": "store_const", "const": option.value}
    elif option.choices is not None:
        how = {"choices": option.choices}
    elif option.several:
        how |= {"nargs": "*" if option.may_be_alone else "+", "action": "extend"}
    elif option.many:
        how |= {"action": "append"}
    group.add_argument(option.flag, help=option.help, **how)


def collect_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, by their flags without dashes in front."""
    names = [option.flag.lstrip("-") for option in ALL] + [*ENTITIES, "filter"]
    given = {name: getattr(arguments, name.replace("-", "_"), None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def take_filters(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; entity=value may stand anywhere, also without --filter."""
    arguments, rest = parser.parse_known_args(argv)
    # Behind options, argparse takes no more arguments that have none.
    filters = [text for text in rest if "=" in text and not text.startswith("-")]
    if rest and (filters != rest or "filter" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if filters:
        arguments.filter = [*(arguments.filter or []), *filters]
    return arguments
