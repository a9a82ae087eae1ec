"""The environment variables and `.env`: the only file that reads them."""

import difflib
import io
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, ValidationError

from api_server.errors import ConfigurationError
from api_server.settings.compose_names import COMPOSE_NAMES, START_NAMES
from api_server.settings.explaining import read_text, reason, suggestion
from api_server.settings.values import (
    KEY_NAME,
    BaseUrl,
    EngineChoice,
    HttpUrl,
    Key,
    ModelId,
    OwnKey,
    Positive,
    PostgresUrl,
    RedisUrl,
    SigningKey,
    Strict,
    Tokens,
    UrlList,
)

ENV_FILE = ".env"
OTHER_SECRETS = frozenset({"JWT_SECRET", "POSTGRES_URL", "REDIS_URL"})
"""Variables that hold a secret, though their names do not say so."""

NEAR_MISS = 0.85
"""From this likeness on, a key of nobody is taken for a mistyped setting."""


class Environment(Strict):
    """The environment variables; `.env.example` explains each. Names are upper case there."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=1, le=65535)
    data_dir: Path = Path(".local")
    listen_fd: int | None = Field(None, ge=3)
    drain_notice_seconds: float = Field(0, ge=0, le=60)
    stack_config: Path = Path("configs/stack.yaml")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    engine: EngineChoice = "llama-cpp"
    engine_urls: UrlList | None = None
    engine_config: Path | None = None
    engine_slots: int | None = Field(None, ge=1, le=4096)
    engine_context_tokens: Tokens | None = None
    engine_api_key: Key | None = None
    model_name: ModelId = "llama-3.3-8b-instruct"
    embeddings_url: BaseUrl | None = None
    embeddings_name: ModelId = "nomic-embed-text-v1.5"
    drain_seconds: Positive | None = None
    admin_api_key: OwnKey | None = None
    environment: Literal["production", "development"] = "production"
    auth: bool = True
    postgres_url: PostgresUrl | None = None
    redis_url: RedisUrl | None = None
    grafana_postgres_password: Key | None = None
    s3_url: BaseUrl | None = None
    s3_access_key: Key | None = None
    s3_secret_key: Key | None = None
    qdrant_url: BaseUrl | None = None
    qdrant_api_key: Key | None = None
    jwt_secret: SigningKey | None = None
    jwt_jwks_url: HttpUrl | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_app: str | None = None
    server_port: int | None = Field(None, ge=1, le=65535)
    debug_mode: bool | None = None
    queue_max_size: int | None = Field(None, ge=1, le=1_000_000)
    request_timeout: Positive | None = None
    ai_service_url: BaseUrl | None = None
    ai_service_api_key: Key | None = None
    ai_service_model: ModelId = "mistral-7b"
    ai_service_timeout: Positive = 120
    ai_service_max_input_tokens: Tokens = 4096
    ai_service_max_output_tokens: Tokens = 2048
    model: Path | None = None
    development_key: OwnKey | None = None
    embeddings: bool | None = None
    embedding_model: Path | None = None
    llama_server: str | None = None
    cxx: str | None = None
    xdg_cache_home: Path | None = None
    monitoring: bool = True

    @property
    def least_logged(self) -> str:
        """`LOG_LEVEL`, or debug where `DEBUG_MODE` is on."""
        return "debug" if self.debug_mode else self.log_level

    @property
    def cache_home(self) -> Path:
        """Where things that are slow to make are kept for every checkout of this user."""
        return self.xdg_cache_home or Path.home() / ".cache"


@dataclass(frozen=True)
class Sources:
    """Where variables come from: the environment, over `.env`. Set to nothing is not set."""

    variables: Mapping[str, str]
    file: Mapping[str, str | None]

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Self:
        """The environment and `.env`, or the given variables and no file."""
        if variables is not None:
            return cls(variables, {})
        return cls(os.environ, _read_env_file(Path(ENV_FILE)))

    def value(self, name: str) -> str | None:
        """The value of a variable, None where it is not set."""
        if name in self.variables:
            return self.variables[name] or None
        return self.file.get(name) or None

    def without(self, names: Collection[str]) -> Self:
        """The same where nobody has set these."""
        unset = dict.fromkeys(names, "")
        return type(self)({**self.variables, **unset}, self.file)

    def place(self, name: str) -> str:
        """Where its value comes from, for messages."""
        return "the environment" if name in self.variables else ENV_FILE


def load_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The environment over `.env`. Strangers in the environment pass, in `.env` they do not."""
    return environment_of(Sources.read(variables))


def environment_of(sources: Sources) -> Environment:
    """The settings among the variables, checked; errors name variable and source."""
    names = {name.upper(): name for name in Environment.model_fields}
    known = [*names, *sorted(COMPOSE_NAMES | START_NAMES)]
    for key in sources.file:
        if key not in known and not _may_be_a_key(key, known):
            is_near = difflib.get_close_matches(key, known, n=1)
            hint = suggestion(key, known if is_near else list(names))
            raise ConfigurationError(f"{ENV_FILE}: unknown key '{key}'.{hint}")
    values = {name: value for key, name in names.items() if (value := sources.value(key))}
    if "server_port" in values and "port" not in values:
        values["port"] = values["server_port"]
    try:
        return Environment.model_validate(values)
    except ValidationError as exc:
        lines = []
        for error in exc.errors():
            name = str(error["loc"][0]).upper()
            why = reason(error, is_secret=name.endswith(("_KEY", "_SECRET", "_PASSWORD")))
            lines.append(f"{name} in {sources.place(name)}: {why}")
        raise ConfigurationError("\n".join(lines)) from exc


def inherited_environment() -> dict[str, str]:
    """Our environment for a child process, without what would change an engine's flags."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLAMA_", "GGML_"))
    }


def engine_environment() -> dict[str, str]:
    """The same for an engine, which has no use for secrets of other services."""
    return {
        name: value
        for name, value in inherited_environment().items()
        if not KEY_NAME.match(name) and name not in OTHER_SECRETS and not name.endswith("_PASSWORD")
    }


def functions_environment() -> dict[str, str]:
    """The same for an operator's functions: they have keys of their own, and no use for ours."""
    secret = ("_key", "_secret", "_password")
    ours = {name.upper() for name in Environment.model_fields if name.endswith(secret)}
    return {
        name: value
        for name, value in inherited_environment().items()
        if name not in ours | OTHER_SECRETS
    }


def _may_be_a_key(name: str, settings: list[str]) -> bool:
    """Whether some model's `api_key_env` may mean it; not where it looks like a setting of ours.

    Which models there are is not asked: `make local` serves others than the stack file lists.
    """
    is_near = difflib.get_close_matches(name, settings, n=1, cutoff=NEAR_MISS)
    return bool(KEY_NAME.match(name)) and not is_near


def _read_env_file(path: Path) -> dict[str, str | None]:
    """The assignments of `.env`, nothing when there is none."""
    if not path.exists():
        return {}
    text = read_text(path)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise ConfigurationError(
                f"{path}, line {binding.original.line}: is no assignment such as PORT=8001."
            )
    return dotenv_values(stream=io.StringIO(text))
