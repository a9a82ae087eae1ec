"""Which key goes to which gateway. Standard library only: Locust's container has nothing else."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

DATA_DIR = ".local"
KEY_FILE = "development.key"


def key_of(environment: Mapping[str, str], host: str) -> str | None:
    """OPENAI_API_KEY; for this machine else the key that `make local` keeps; else none."""
    if key := environment.get("OPENAI_API_KEY"):
        return key
    try:
        if urlsplit(host).hostname not in ("127.0.0.1", "localhost", "::1"):
            return None
    except ValueError:  # no URL, which whoever connects says
        return None
    folder = Path(environment.get("DATA_DIR") or DATA_DIR)
    try:
        return (folder / KEY_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
