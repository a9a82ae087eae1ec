"""Base URLs of engines: whether one can be used, and when two are the same. Pure."""

from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def fault_of(url: str) -> str | None:
    """What is wrong with a base URL, None where nothing is. Never shows the URL itself."""
    if "@" in url:
        return (
            "must hold no user name and no password: a key has a place of its own (api_key, "
            "api_key_env, AI_SERVICE_API_KEY)"
        )
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or any(mark in url for mark in "?# \t\r\n"):
        return "must be a base URL such as http://127.0.0.1:8080"
    try:
        (parts.hostname or "").encode("idna")
    except UnicodeError:
        return "has a host that is no name: each part between dots must have 1 to 63 letters"
    if url.rstrip("/").endswith("/v1"):
        return "must be the base URL without /v1, which is put behind it"
    return None


def normalised(url: str) -> str:
    """The same for all ways to write one address, of a URL without fault."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    return f"{parts.scheme}://{host}:{parts.port or _PORTS[parts.scheme]}{parts.path.rstrip('/')}"
