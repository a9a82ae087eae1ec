"""Everything the stack is told: the environment, `.env` and `configs/stack.yaml`. Nothing else
reads them.

Every key is typed; an unknown key or a bad value is a `ConfigurationError` that names the key, its
source and the nearest right key. `configs/stack.schema.json` is generated from `Stack`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, TypeAdapter, ValidationError

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.schemas.app_codes import SeededApp
from api_server.settings.app_codes import load_app_codes
from api_server.settings.compose_names import ENGINE_NAMES
from api_server.settings.environment import (
    Environment,
    Sources,
    engine_environment,
    environment_of,
    functions_environment,
    inherited_environment,
    load_environment,
)
from api_server.settings.explaining import reason
from api_server.settings.models import catalogue_models, warnings
from api_server.settings.placeholders import is_placeholder
from api_server.settings.sections import JobsConfig, LocalConfig
from api_server.settings.stack import ModelConfig, Stack
from api_server.settings.stack_file import load_stack
from api_server.settings.started_engines import with_started_engines
from api_server.settings.values import Key

__all__ = [
    "ENGINE_NAMES",
    "REPOSITORY",
    "Environment",
    "LocalConfig",
    "ModelConfig",
    "Settings",
    "Stack",
    "engine_environment",
    "functions_environment",
    "inherited_environment",
    "load_environment",
    "load_settings",
    "load_stack",
]

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_KEY: TypeAdapter[SecretStr] = TypeAdapter(Key)


@dataclass(frozen=True)
class Settings:
    """Everything the stack was told, checked. `keys` are the engines' own, by `api_key_env`."""

    environment: Environment
    stack: Stack
    keys: Mapping[str, SecretStr] = field(default_factory=dict)

    @property
    def serves_embeddings(self) -> bool:
        """Whether `make local` starts the engine for embeddings; a model named for it says so."""
        if self.environment.embeddings is not None:
            return self.environment.embeddings
        return self.stack.local.embeddings or self.environment.embedding_model is not None

    @property
    def admin_key(self) -> str | None:
        """What opens `/admin`; None where it stays closed."""
        key = self.environment.admin_api_key
        return key.get_secret_value() if key is not None else None

    @property
    def postgres_url(self) -> str | None:
        """Where the tables are; None where there is no database."""
        url = self.environment.postgres_url
        return url.get_secret_value() if url is not None else None

    @property
    def redis_url(self) -> str | None:
        """What the gateway's processes share; None where there is none."""
        url = self.environment.redis_url
        return url.get_secret_value() if url is not None else None

    @property
    def drain_seconds(self) -> float:
        """For so long running answers may go on after SIGTERM."""
        told = self.environment.drain_seconds
        return self.stack.gateway.drain_seconds if told is None else told

    @property
    def spool(self) -> Path:
        """Where the ledger keeps rows until PostgreSQL has them."""
        return self.environment.data_dir / "spool"

    @property
    def jobs(self) -> JobsConfig:
        """The section `jobs`, under what the environment says of it."""
        environment = self.environment
        told = {
            "queue_size": environment.queue_max_size,
            "timeout_seconds": environment.request_timeout,
        }
        return self.stack.jobs.model_copy(
            update={name: value for name, value in told.items() if value is not None}
        )

    @property
    def object_store_keys(self) -> tuple[str, str] | None:
        """None where there is no object store. Raises `ConfigurationError`."""
        environment = self.environment
        access_key, secret_key = environment.s3_access_key, environment.s3_secret_key
        if environment.s3_url is None:
            return None
        if access_key is None or secret_key is None:
            raise ConfigurationError("S3_URL needs S3_ACCESS_KEY and S3_SECRET_KEY: set both.")
        return _text(access_key), _text(secret_key)

    @property
    def is_development(self) -> bool:
        """Whether nobody but the developer is meant to reach this."""
        return self.environment.environment == "development"

    def check_can_serve(self) -> None:
        """Raises `ConfigurationError` for what must not face clients, whatever it is configured."""
        environment = self.environment
        if not environment.auth and not self.is_development:
            raise ConfigurationError(
                "AUTH is off, and that is for development alone: set ENVIRONMENT=development, or "
                "leave AUTH out."
            )
        if environment.auth and environment.postgres_url is None:
            raise ConfigurationError(
                "Apps and their keys are kept in PostgreSQL: set POSTGRES_URL. `make local` brings "
                "its own; ENVIRONMENT=development with AUTH=off does without."
            )

        if not self.is_development:
            self._check_secrets()

    def _check_secrets(self) -> None:
        environment = self.environment
        secrets = {
            "ADMIN_API_KEY": environment.admin_api_key,
            "JWT_SECRET": environment.jwt_secret,
            "S3_SECRET_KEY": environment.s3_secret_key,
            "QDRANT_API_KEY": environment.qdrant_api_key,
            "POSTGRES_URL, the password": password_of(environment.postgres_url),
            "REDIS_URL, the password": password_of(environment.redis_url),
        }
        found = [name for name, key in secrets.items() if key and is_placeholder(_text(key))]
        codes = [app.name for app in self.app_codes() if is_placeholder(app.code)]
        found += [f"the app code of {name!r} in {self.stack.apps.seed}" for name in codes]
        if found:
            raise ConfigurationError(
                f"{'; '.join(found)}: this is a placeholder that anybody would try. Make a secret "
                "with `openssl rand -hex 24`. (ENVIRONMENT=development lets it pass.)"
            )

    def app_codes(self) -> list[SeededApp]:
        """The apps of the file that `apps: seed:` names; relative to the repository."""
        seed = self.stack.apps.seed
        return load_app_codes(REPOSITORY / seed.expanduser()) if seed is not None else []

    @property
    def development_key(self) -> str | None:
        """A key that opens everything to the developer; None outside of development."""
        key = self.environment.development_key
        return key.get_secret_value() if key is not None and self.is_development else None

    def models(self) -> list[Model]:
        """The catalogue's entries for the engine room."""
        return catalogue_models(self.environment, self.stack, self.keys, REPOSITORY)

    def warnings(self) -> list[str]:
        """What is allowed and yet unwise, in sentences."""
        found = list(warnings(self.models(), self.environment))
        if self.environment.development_key is not None and not self.is_development:
            found.append("DEVELOPMENT_KEY counts in ENVIRONMENT=development alone: it is ignored.")
        return found


def password_of(url: SecretStr | None) -> SecretStr | None:
    """The password in an address, None where there is none."""
    password = urlsplit(url.get_secret_value()).password if url is not None else None
    return SecretStr(unquote(password)) if password else None


def _text(secret: SecretStr) -> str:
    return secret.get_secret_value()


def load_settings(
    variables: Mapping[str, str] | None = None,
    *,
    stack_config: Path | None = None,
    without: Collection[str] = (),
) -> Settings:
    """Read the environment (or the given variables), `.env` and the stack file; check all.

    `stack_config` is the stack file to read whatever the environment says, also of engines; what is
    in `without` counts as not set.
    """
    sources = Sources.read(variables).without(without if stack_config is None else ENGINE_NAMES)
    environment = environment_of(sources)
    if stack_config is not None:
        environment = environment.model_copy(update={"stack_config": stack_config})
    stack = with_started_engines(load_stack(environment.stack_config), environment)
    settings = Settings(environment, stack, _keys(stack, sources))
    settings.models()  # raises where they do not go together
    return settings


def _keys(stack: Stack, sources: Sources) -> dict[str, SecretStr]:
    keys = {}
    for name in {entry.api_key_env for entry in stack.models if entry.api_key_env}:
        value = sources.value(name)
        try:
            if value is not None:
                keys[name] = _KEY.validate_python(value)
        except ValidationError as exc:
            why = reason(exc.errors()[0], is_secret=True)
            raise ConfigurationError(f"{name} in {sources.place(name)}: {why}") from exc
    return keys
