"""URLs: what users may see of one, and which are files of this machine after all."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit
from urllib.request import url2pathname

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s<>]*[^\s<>'\"(),;:.])")
"""Rather too much than too little: a comma, a quote or a bracket may be part of a secret."""
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|KEY|CREDENTIAL", re.IGNORECASE)
_LEAST_SECRET = 8  # characters; shorter values of such variables are words


def is_url(place: object) -> bool:
    """Tell whether a place is named by a URL and not by a path."""
    return "://" in str(place)


def protocol_of(url: str) -> str:
    """Return what stands before `://`, in small letters."""
    return url.partition("://")[0].lower()


def local_path(place: str) -> str:
    """Return the path that a `file://` URL names; anything else as it is."""
    if protocol_of(place) not in ("file", "local") or not is_url(place):
        return place
    return url2pathname(place.partition("://")[2])


def show_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, where secrets stand."""
    protocol, mark, rest = url.partition("://")
    if not mark:
        return url
    bare = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = bare.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def show_urls(text: str) -> str:
    """Return a text with each URL in it as `show_url` gives it."""
    return _URL.sub(lambda found: show_url(found[1]), text)


def conceal(text: str) -> str:
    """Return what a library said with no secret in it, of a URL or of the environment."""
    text = show_urls(text)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _LEAST_SECRET and not os.path.exists(value):
            text = text.replace(value, "***")
    return text


def holds_password(url: str) -> bool:
    """Tell whether a URL names a user or password."""
    return "@" in urlsplit(url).netloc
