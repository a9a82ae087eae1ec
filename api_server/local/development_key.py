"""The key that a developer's own programs show to `make local`; made once for a data directory."""

import secrets

from api_server.local.data_dir import KEY_FILE, write_private
from api_server.settings import Settings

PREFIX = "sk-dev-"


def development_key(settings: Settings) -> str | None:
    """The operator's, the one kept, or a new one that is kept; None where AUTH is off."""
    environment = settings.environment
    if not environment.auth:
        return None
    if environment.development_key is not None:
        return environment.development_key.get_secret_value()
    path = environment.data_dir.resolve() / KEY_FILE
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if not kept.startswith(PREFIX):
        kept = PREFIX + secrets.token_hex(20)
        write_private(path, f"{kept}\n")
    return kept
