"""Reads the file with the apps that are configured, YAML or JSON (which is YAML as well)."""

from pathlib import Path

from pydantic import ValidationError

from api_server.errors import ConfigurationError
from api_server.schemas.app_codes import AppCodes, SeededApp
from api_server.settings.explaining import explain
from api_server.settings.yaml_file import read_document


def load_app_codes(path: Path) -> list[SeededApp]:
    """The apps of the file. Errors hint at app codes and never show one."""
    remedy = " `apps: seed:` in the stack file names the file to use."
    document = read_document(path, remedy, are_keys_secret=True)
    try:
        codes = AppCodes.model_validate({} if document is None else document).app_codes
    except ValidationError as exc:
        lines = [f"{path}: {explain(error, AppCodes, hidden=1)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from None
    return [SeededApp(entry.name, entry.policy(), code) for code, entry in codes.items()]
