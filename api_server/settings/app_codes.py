"""Reads the file with the apps that are configured, YAML or JSON (which is YAML as well)."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from api_server.errors import ConfigurationError
from api_server.schemas.app_codes import AppCodes, SeededApp
from api_server.settings.explaining import explain, read_text
from api_server.settings.stack_file import UniqueKeyLoader


def load_app_codes(path: Path) -> list[SeededApp]:
    """The apps of the file. Errors hint at app codes and never show one."""
    text = read_text(path, " `apps: seed:` in the stack file names the file to use.")
    try:
        document = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(exc, "problem", None) or "it is not valid YAML"
        if "stands twice" in problem:  # it may be an app code
            problem = "a key stands twice"
        raise ConfigurationError(f"{path}{line}: {problem}.") from None
    try:
        codes = AppCodes.model_validate({} if document is None else document).app_codes
    except ValidationError as exc:
        lines = [f"{path}: {explain(error, AppCodes, hidden=1)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from None
    return [SeededApp(entry.name, entry.policy(), code) for code, entry in codes.items()]
