"""Says what is wrong with a setting, and which right one is near."""

from pathlib import Path

from api_server.errors import ConfigurationError
from api_server.schemas.explaining import explain, reason, suggestion

__all__ = ["explain", "read_text", "reason", "suggestion"]


def read_text(path: Path, remedy: str = "") -> str:
    """The text of a file. Raises `ConfigurationError` with the remedy behind it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{path}: cannot be read ({why}).{remedy}") from exc
