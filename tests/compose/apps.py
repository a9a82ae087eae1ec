"""Makes and reads apps as an operator would: the gateway's own command, in its container."""

import json
from typing import Any

from tests.compose.project import Project


def apps_command(project: Project, *arguments: str) -> Any:
    """`python -m api_server apps ...`; what it prints as JSON."""
    words = ["exec", "-T", "api-server", "python", "-m", "api_server", "apps"]
    return json.loads(project.compose(*words, *arguments, "--json"))


def make_app(project: Project, name: str, **policy: object) -> dict[str, str]:
    """A new one; `key` and `app_code` are among what is known of it."""
    made: dict[str, str] = apps_command(project, "create", name, "--policy", json.dumps(policy))
    return made
