"""Tokens of servers: where they are, read when they are needed, and kept out of every text."""

import configparser
import os
import re
from pathlib import Path

from nipype_blm.errors import InputError, show

PUBLIC = "public"  # what BossDB takes from anyone
_FORMS = "`file:PATH`, `env:NAME` or `public`"
# What HTTP lets a token be made of; so a header, a configuration and JSON hold it as it is.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_used: set[str] = set()


def redact(text: str) -> str:
    """Return a text with ``<token>`` for every token that this process has read."""
    for token in sorted(_used, key=len, reverse=True):
        text = text.replace(token, "<token>")
    return text


def check_place(place: str) -> None:
    """Refuse what does not say where a token is.

    Parameters
    ----------
    place : str
        ``file:PATH``, absolute or from ``~`` (a configuration with a token in its section
        Default, or a file with nothing but the token), ``env:NAME``, or ``public``.

    Raises
    ------
    InputError
        Does not show what came: it may be a token.
    """
    kind, _, name = str(place).partition(":")
    if place != PUBLIC and (kind not in ("file", "env") or not name):
        raise InputError(
            f"The token is said to be at something that is not {_FORMS}: say where the token is, "
            "never the token itself."
        )
    if kind == "file" and not Path(name).expanduser().is_absolute():
        raise InputError(
            "The token is said to be in a file without its folder, which a worker would look for "
            "elsewhere: give the whole path."
        )


def read_token(place: str) -> str:
    """Return the token; `redact` knows it from now on.

    Parameters
    ----------
    place : str
        See `check_place`.

    Raises
    ------
    InputError
        If there is none, or what is there can be none.
    """
    check_place(place)
    if place == PUBLIC:
        return PUBLIC
    kind, _, name = place.partition(":")
    token = (_read_environment(name) if kind == "env" else _read_file(Path(name))).strip()
    if re.fullmatch(r"<.*>", token):
        raise InputError(
            f"{describe_place(place)} has a placeholder where the token should be: put your own "
            "there."
        )
    if not token:
        raise InputError(f"{describe_place(place)} has no token: put yours there.")
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"{describe_place(place)} has something that is no token (a token is one word of "
            "letters, digits and -._~+/=): put yours there."
        )
    if token != PUBLIC:
        _used.add(token)
    return token


def describe_place(place: str) -> str:
    """Return where a token is, as a message says it."""
    kind, _, name = place.partition(":")
    return {"env": f"${name}", "file": name}.get(kind, place)


def read_ini(path: Path) -> configparser.ConfigParser:
    """Return a configuration file as it stands: nothing in it is expanded.

    Raises
    ------
    InputError
        Never shows a line of the file, which may hold a token.
    """
    parser = _parse_ini(_read_text(path))
    if parser is None:
        raise InputError(
            f"{path} is no configuration file: expected sections such as [Default], each with "
            "lines such as `host = api.bossdb.io`."
        )
    return parser


def _parse_ini(text: str) -> configparser.ConfigParser | None:
    # No section is one of defaults to configparser, so that [DEFAULT] is read as [Default] is.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text)
    except configparser.Error:  # its message quotes the line
        return None
    return parser


def find_section(parser: configparser.ConfigParser, name: str) -> dict[str, str]:
    """Return a section, however its name is capitalised; an empty one if there is none."""
    found = [each for each in parser.sections() if each.lower() == name.lower()]
    return dict(parser[found[0]]) if found else {}


def _read_environment(name: str) -> str:
    if name not in os.environ:
        raise InputError(f"${name} is not set, and the token should be there: set it.")
    return os.environ[name]


def _read_file(path: Path) -> str:
    text = _read_text(path)
    parser = _parse_ini(text)
    if parser is None:
        return text
    return find_section(parser, "Default").get("token", "")


def _read_text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        reason = f"{path} cannot be read: expected a text in UTF-8, such as {show('host = ...')}."
    raise InputError(reason)
