"""Variables: secrets that must be given, settings that reach the gateway, names in the example."""

import re
from collections.abc import Iterator

from api_server.settings.environment import Environment
from tests.compose_rules.files import Document, services, variables

SECRET = re.compile(r"(_PASSWORD|_KEY|_SECRET|_TOKEN)$")
SECRETS_OF_OTHERS = {
    "ADMIN_API_KEY": "without it /admin is closed",
    "JWT_SECRET": "without it there are no tokens of end users",
    "AI_SERVICE_API_KEY": "of a service elsewhere",
    "TOGETHER_API_KEY": "of a service elsewhere",
    "OPENAI_API_KEY": "of a service elsewhere",
    "HF_TOKEN": "for gated models only",
    "STACK_API_KEY": "made after the first start, and only locust wants it",
}
"""Secrets that the stack starts without."""

NOT_PASSED = {
    "PORT": "the container's is 8000; API_PORT is the host's",
    "SERVER_PORT": "the same",
    "LISTEN_FD": "make local's",
    "DEBUG_MODE": "the same as LOG_LEVEL=debug, which is passed",
    "STACK_CONFIG": "configs/stack.yaml is mounted",
    "ENVIRONMENT": "only production is safe where others reach the port",
    "AUTH": "the same",
    "MODEL": "make local's",
    "DEVELOPMENT_KEY": "make local's",
    "EMBEDDINGS": "make local's",
    "EMBEDDING_MODEL": "make local's",
    "LLAMA_SERVER": "make local's",
    "CXX": "make local's",
    "XDG_CACHE_HOME": "make local's",
    "GRAFANA_POSTGRES_PASSWORD": "bucket-init and Grafana read it",
    "MONITORING": "make local's",
}
"""Settings of the gateway that its service does not hand on."""


READ_BY_COMPOSE = frozenset({"COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"})


def secret_faults(document: Document) -> Iterator[str]:
    """Secrets with a default, and those of the stack itself that are not asked for."""
    for variable in variables(document):
        if SECRET.search(variable.name):
            if variable.how == ":-" and variable.rest:
                yield f"{variable.name} has a default"
            elif variable.how != ":?" and variable.name not in SECRETS_OF_OTHERS:
                yield f"{variable.name} may be missing"


def literal_secrets(document: Document) -> Iterator[str]:
    """Environment variables of services that hold a secret as text."""
    for name, service in services(document).items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and not str(value).startswith("${"):
                yield f"{name}: {key} is written down"


def settings_not_passed(document: Document) -> Iterator[str]:
    """Settings that a user of compose cannot set, and reasons for such that can be set."""
    passed = set(services(document)["api-server"]["environment"])
    settings = {name.upper() for name in Environment.model_fields}
    yield from (
        f"{name} does not reach the gateway" for name in settings - passed - set(NOT_PASSED)
    )
    yield from (f"{name} is passed after all" for name in passed & set(NOT_PASSED))
    yield from (f"{name} is no setting" for name in set(NOT_PASSED) - settings)


def undocumented(document: Document, example: str) -> Iterator[str]:
    """Variables that `.env.example` does not name."""
    known = set(re.findall(r"^#? ?([A-Z0-9_]+)=", example, re.MULTILINE))
    for name in {variable.name for variable in variables(document)} - known:
        yield f"{name} is not in .env.example"


START_SECTION = "# --- only for make start ---"


def unused(document: Document, example: str, scripts: str) -> Iterator[str]:
    """Names of make start in `.env.example` that neither a compose file nor a script reads."""
    section = example.partition(START_SECTION)[2]
    read = {variable.name for variable in variables(document)} | READ_BY_COMPOSE
    for name in re.findall(r"^# ([A-Z0-9_]+)=", section, re.MULTILINE):
        if name not in read and not re.search(rf"\b{name}\b", scripts):
            yield f"{name} is read by nobody"
