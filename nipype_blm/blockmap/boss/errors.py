"""What a BOSS refuses, said to its user; what may pass, left to those who try again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from nipype_blm.blockmap.boss.volumes import Volume
from nipype_blm.blockmap.tokens import PUBLIC, describe_place, redact
from nipype_blm.errors import InputError, shorten

# Of the statuses that mean a wrong request, those that may be right later.
_TRANSIENT = {408, 425, 429}


class NotFoundError(InputError):
    """The server knows nothing of this name."""


@contextmanager
def explained(volume: Volume, asked: str) -> Iterator[None]:
    """Turn what a user can mend into an InputError; let all else go on, without the token.

    Parameters
    ----------
    volume : Volume
    asked : str
        What the server was asked for.

    Raises
    ------
    InputError
        If the server refuses it, or answers with what cannot be used.
    OSError
        If it may answer when it is asked again.
    """
    try:
        yield
    except Exception as error:
        told = _translate(error, volume, asked)
        if told is error:
            raise
        # Whatever is hidden is still pickled with what is told, by those who keep contexts.
        error.args = ()
        raise told from None


def _translate(error: Exception, volume: Volume, asked: str) -> Exception:
    if isinstance(error, requests.RequestException):
        return _translate_request(error, volume, asked)
    if isinstance(error, ValueError) and not isinstance(error, InputError):
        return InputError(
            f"{volume.host} answers {asked} with what is not of the type and shape that it tells "
            f"of this channel, or that cannot be read here ({redact(str(error))}): expected "
            "uint8, uint16 or uint64."
        )
    if type(error).__module__.startswith("blosc"):
        return OSError(f"{volume.host} sent {asked} in a form that cannot be unpacked")
    return error


def _translate_request(error: requests.RequestException, volume: Volume, asked: str) -> Exception:
    response = error.response
    # The headers of a request have the token, and an error is pickled with its request.
    error.request = error.response = None
    if isinstance(error, requests.HTTPError) and response is not None:
        status = response.status_code
        if 400 <= status < 500 and status not in _TRANSIENT:
            kind = NotFoundError if status == 404 else InputError
            return kind(_explain(volume, asked, status, response.text))
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return OSError(f"{volume.protocol}://{volume.host} does not answer as a BOSS does")
    text = _shorten_reason(error)
    if isinstance(error, requests.exceptions.SSLError):
        return _translate_ssl(text, volume) or type(error)(text)
    return type(error)(text)


def _shorten_reason(error: requests.RequestException) -> str:
    """Return why there is no answer; of a connection without the objects that tried to make one."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if reason is None:
        return redact(str(error))
    host = getattr(error.args[0].pool, "host", "")
    return redact(
        f"{host}: {re.sub(r'^HTTPS?Connection[^ ]*( port=[0-9]+[)])?: ', '', str(reason))}"
    )


def _translate_ssl(text: str, volume: Volume) -> InputError | None:
    """Return what stays wrong however often it is tried."""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return InputError(
            f"The certificate of {volume.host} is not one that this machine trusts: if it should "
            "be, set $REQUESTS_CA_BUNDLE to a file of certificates with its own."
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return InputError(
            f"{volume.host} does not speak https there: if it is the right host and port, set "
            "protocol = http, by which others on the way can read the token."
        )
    return None


def _explain(volume: Volume, asked: str, status: int, answer: str) -> str:
    where = describe_place(volume.token)
    if status == 401:
        return (
            f"{volume.host} does not know the token in {where}: get one from "
            f"{volume.protocol}://{volume.host}/v1/mgmt/token and put it in its place."
        )
    if status == 403 and volume.token == PUBLIC:
        return f"{volume.host} refuses {asked}, which is not public: say where your token is."
    if status == 403:
        return (
            f"{volume.host} refuses {asked} to the token in {where}: ask who owns "
            f"{volume.collection}/{volume.experiment} for the permission."
        )
    told = shorten(redact(" ".join(answer.split())), 300)
    return f"{volume.host} refuses {asked} (status {status}): {told}"
