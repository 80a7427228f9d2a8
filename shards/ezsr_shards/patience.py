"""Patience: try again what fails for a while, with growing pauses; say plainly what fails for good.

The pauses are drawn evenly from 0 to a bound that doubles ("full jitter": M. Brooker, Exponential
backoff and jitter, AWS Architecture Blog, 2015), so that many workers do not come back at once.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ezsr_shards.errors import StoreError
from ezsr_shards.urls import conceal

Result = TypeVar("Result")

_REFUSED = {401, 403}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.EBUSY, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH),
    getattr(errno, "EREMOTEIO", errno.ECONNRESET),
}
_PASSING_CODES = {
    *("BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout"),
    *("ConditionalRequestConflict", "ServiceUnavailable", "SlowDown", "NoSuchUpload"),
    *("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
}
_PASSING_KINDS = {  # by name, since these packages need not be installed
    *(
        "ConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ResponseParserError",
    ),  # botocore
    *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
    *("ChunkedEncodingError", "Timeout"),  # requests
    *("TransportError", "IncompleteRead"),  # httpx, http.client
}
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("DefaultCredentialsError", "ProfileNotFound", "TokenRetrievalError"),
}


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long the pauses between may become."""

    tries: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0

    def pause_s(self, failures: int) -> float:
        """Return the next pause after so many failures, drawn anew each time."""
        bound = min(self.first_pause_s * 2 ** (failures - 1), self.longest_pause_s)
        return random.uniform(0, bound)  # noqa: S311  # no secret depends on it


PATIENCE = Patience()


def persist(call: Callable[[], Result], what: str, patience: Patience | None = None) -> Result:
    """Return what `call` returns, called again while its errors may pass.

    what  the URL that is worked on, for the sentence; no secrets in it

    Raises OSError at once where no repetition would help, StoreError when patience ends. Neither
    shows what the libraries below said before, as that may hold secrets.
    """
    patience = patience or PATIENCE
    why = ""
    for failures in range(1, patience.tries + 1):
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise as_os_error(error, what) from None
            why = explain(error)
        if failures < patience.tries:
            time.sleep(patience.pause_s(failures))
    raise StoreError(
        f"{what}: not reached in {patience.tries} tries ({why}); try again later, what is complete "
        f"is kept"
    )


def may_pass(error: BaseException) -> bool:
    """Tell whether an error of a store, whichever, may be gone at the next try."""
    if isinstance(error, FileExistsError):
        return False
    for one in _chain(error):
        status, code = _status(one), _code(one)
        if code in _PASSING_CODES or status in _PASSING_STATUS:
            return True
        if code or status:  # a clear answer, such as 403
            return False
        if _is_connection(one):
            return True
        if isinstance(one, OSError) and one.errno in _PASSING_ERRNO:
            return True
    return False


def is_condition(error: BaseException) -> bool:
    """Tell whether a store refused because a condition of the request does not hold."""
    return any(_status(one) == 412 or _code(one) == "PreconditionFailed" for one in _chain(error))


def as_os_error(error: BaseException, what: str) -> OSError:
    """Return an error of a store as the OSError that a local file would have given."""
    text = explain(error)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "is there already", what)
    if is_condition(error):  # readers ask for the version that they began with
        return OSError(errno.ESTALE, "it was changed while it was read", what)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return type(error)(error.errno, error.strerror, error.filename)  # of this machine
    if "bucket" in text:
        return OSError(errno.ENXIO, text, what)
    refused = any(
        _status(one) in _REFUSED or _kinds(one) & _NO_CREDENTIALS for one in _chain(error)
    )
    if refused or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, text, what)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such file", what)
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, text, what)
    return OSError(errno.EIO, text, what)


def explain(error: BaseException) -> str:
    """Return in a few words why a store refused, with no secret in them."""
    for one in _chain(error):
        status, code = _status(one), _code(one)
        if _kinds(one) & _NO_CREDENTIALS:
            return "no credentials; set them in the environment, as the store's own tools do"
        if code == "NoSuchBucket" or "bucket does not exist" in str(one):
            return "no such bucket"
        if code or status:
            said = " ".join(str(part) for part in (status, code) if part and str(part) != code)
            refused = " access denied," if status in _REFUSED else ""
            return f"{refused} HTTP {said or code}".strip()
    if broken := next(filter(_is_connection, _chain(error)), None):
        return _describe(broken)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return f"access denied, {conceal(str(error))}".removesuffix(", ")
    return _describe(error)


def _describe(error: BaseException) -> str:
    text = conceal(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_connection(error: BaseException) -> bool:
    """Tell whether an error says that a store was not reached, not what it answered."""
    return isinstance(error, (TimeoutError, ConnectionError)) or bool(
        _kinds(error) & _PASSING_KINDS
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from, the last first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _code(error: BaseException) -> str | None:
    """Return what S3 calls an error, such as SlowDown."""
    response = getattr(error, "response", None)
    told = response.get("Error", {}) if isinstance(response, dict) else {}
    code = told.get("Code")
    return str(code) if code and not str(code).isdecimal() else None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of botocore, aiohttp, gcsfs, requests or httpx."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for name in ("status", "code", "status_code"):
        found = found if isinstance(found, int) else getattr(error, name, None)
    return found if isinstance(found, int) and 100 <= found < 600 else None
