"""Connect: the file systems behind URLs, and their files as streams that outlive connections.

Credentials come from where each store's own tools look for them (environment, profile, role) and
are never ours to hold. Any option of a file system can be set as fsspec lets one, such as
FSSPEC_S3='{"anon": true}' in the environment.
"""

from __future__ import annotations

import errno
import io
from contextlib import suppress
from typing import IO, Any

from ezsr_shards.errors import ConfigError
from ezsr_shards.patience import persist
from ezsr_shards.urls import holds_password, protocol_of, show_url

_PART_BYTES = 1 << 24
"""Size of what is sent or fetched at once; a file of twice as much goes up in parts."""
_AT_ONCE = 4  # parts in flight, each held in memory
_BUFFER_BYTES = 1 << 20
_REQUEST_TRIES = 5
_CONNECT_S, _READ_S = 10, 60
"""Seconds until a store that says nothing counts as not reached."""
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'ezsr[s3]'"),
    **dict.fromkeys(("gs", "gcs"), "'ezsr[gcs]'"),
    "hf": "'ezsr[hf]'",
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
}


def connect(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, the process's own, and the path in it."""
    import fsspec

    protocol = protocol_of(url)
    options = _options_of(protocol)
    told = fsspec.config.conf.get(protocol, {})
    for name in options.keys() & told.keys():
        if isinstance(options[name], dict):
            told = {**told, name: {**options[name], **told[name]}}
    file_system, path = fsspec.core.url_to_fs(url, **{**options, **told})
    if protocol in ("s3", "s3a"):
        file_system.retries = 1  # botocore repeats requests, `persist` all else
    return file_system, path


def _options_of(protocol: str) -> dict[str, Any]:
    """Return what we ask of a file system, unless the user's own configuration says otherwise."""
    if protocol in ("s3", "s3a"):
        retries = {"mode": "standard", "total_max_attempts": _REQUEST_TRIES}  # with full jitter
        return {
            "default_block_size": _PART_BYTES,
            "max_concurrency": _AT_ONCE,
            "use_listings_cache": False,
            "config_kwargs": {
                "retries": retries,
                "connect_timeout": _CONNECT_S,
                "read_timeout": _READ_S,
            },
        }
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S)
        return {"client_kwargs": {"timeout": timeout}}
    return {}


def check_url(url: str) -> None:
    """Raise ConfigError where a URL cannot be reached for want of a package, or holds secrets."""
    import fsspec

    protocol = protocol_of(url)
    if protocol not in ("http", "https") and holds_password(url):
        raise ConfigError(
            f"{show_url(url)}: leave user and password out of the URL; credentials are taken from "
            f"the environment"
        )
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError:
        package = _PACKAGES.get(protocol, "what fsspec's documentation names for it")
        raise ConfigError(
            f"{show_url(url)}: {protocol}:// needs another package; pip install {package}"
        ) from None
    except ValueError:
        raise ConfigError(
            f"{show_url(url)}: {protocol}:// is not known; give s3:// or such"
        ) from None


def open_url(url: str) -> IO[bytes]:
    """Open a file behind a URL as a stream that takes up again where a connection broke.

    Raises OSError or StoreError, as a Store does, here or when it is read.
    """
    stream = _Stream(url)
    stream.reach()
    return io.BufferedReader(stream, _BUFFER_BYTES)


class _Stream(io.RawIOBase):
    """A remote file, read once; each read has tries of its own."""

    def __init__(self, url: str) -> None:
        self._url, self._position = url, 0
        self._file: Any = None
        self._version: tuple[Any, ...] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = persist(lambda: self._read(len(buffer)), show_url(self._url))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def reach(self) -> None:
        """Open the file, which says whether there is one."""
        persist(self._open, show_url(self._url))

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        self._open()
        try:
            return bytes(self._file.read(size))
        except Exception:
            self._drop()
            raise

    def _open(self) -> None:
        if self._file is not None:
            return
        file_system, path = connect(self._url)
        if protocol_of(self._url) in ("http", "https"):
            self._file = _open_http(file_system, path, self._position)
        else:
            self._file = file_system.open(path, "rb")
            self._file.seek(self._position)
        version = _version_of(self._file)
        if version != (self._version or version):
            raise OSError(errno.ESTALE, "it was changed while it was read", show_url(self._url))
        self._version = version

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):
                file.close()


def _version_of(file: Any) -> tuple[Any, ...]:
    """Return what tells whether a file is still the same, as far as its store says."""
    response = getattr(file, "r", None)
    if response is not None:
        return tuple(response.headers.get(name) for name in ("ETag", "Last-Modified"))
    return getattr(file, "size", None), (getattr(file, "details", None) or {}).get("ETag")


def _open_http(fs: Any, path: str, position: int) -> Any:
    """Open one answer as it comes, from a position; servers that know no ranges send all."""
    asked = {"headers": {"Range": f"bytes={position}-"}} if position else {}
    file = fs.open(path, "rb", block_size=0, **asked)
    left = 0 if file.r.status == 206 else position
    while left:
        passed = len(file.read(min(left, _BUFFER_BYTES)))
        if not passed:
            raise OSError("it became shorter while it was read")
        left -= passed
    return file
