"""The one place that reads the environment, `.env` and `configs/stack.yaml`.

Every key is typed; an unknown key or a bad value is a `ConfigurationError` that names the key, its
source and the nearest right key. `configs/stack.schema.json` is generated from `Stack`.
"""

import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

import yaml
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.engines import ENGINES

REPOSITORY = Path(__file__).resolve().parent.parent
ENV_FILE = ".env"

Positive = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


def _are_defaults(fields: dict[str, bool | int | float | str]) -> dict[str, Any]:
    """Fields that change what the gateway itself does with a request are a client's to send."""
    wrong = sorted(
        {"model", "stream", "n", "logprobs", "top_logprobs", "tool_choice"} & set(fields)
    )
    if wrong:
        raise ValueError(f"{wrong[0]} cannot have a default here")
    return fields


RequestFields = Annotated[dict[str, bool | int | float | str], AfterValidator(_are_defaults)]


def _is_base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or "@" in url or any(mark in url for mark in "?# \t\n"):
        raise ValueError("must be a base URL such as http://127.0.0.1:8080")
    return url


BaseUrl = Annotated[str, AfterValidator(_is_base_url)]
EngineName = Literal["llama-server", "max-serve", "vllm", "openai", "together", "llm-serving-stack"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Environment(_Strict):
    """The environment variables; `.env.example` explains each. Names are upper case there."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=1, le=65535)
    data_dir: Path = Path(".local")
    listen_fd: int | None = Field(None, ge=3)
    stack_config: Path = Path("configs/stack.yaml")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    engine_api_key: SecretStr | None = None
    model: Path | None = None
    embeddings: bool | None = None
    embedding_model: Path | None = None
    llama_server: str | None = None
    cxx: str | None = None
    xdg_cache_home: Path | None = None

    @property
    def cache_home(self) -> Path:
        """Where things that are slow to make are kept for every checkout of this user."""
        return self.xdg_cache_home or Path.home() / ".cache"


class GatewayConfig(_Strict):
    """Bounds of the HTTP side."""

    max_body_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, description="Larger request bodies get 413."
    )
    body_timeout_seconds: Positive = Field(
        30, description="A request body must arrive within this time, else 408."
    )
    drain_seconds: Positive = Field(
        30, description="After SIGTERM, running answers may go on for this long."
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that serve; each on its own core.")


class TimeoutConfig(_Strict):
    """How long a request waits in each phase, in seconds."""

    queue_seconds: Positive = Field(
        10, description="For a free slot, and for an engine that is down to come back."
    )
    connect_seconds: Positive = Field(2, description="To open a connection to an engine.")
    first_token_seconds: Positive = Field(60, description="Until the engine's first event.")
    idle_seconds: Positive = Field(30, description="Between two events of an engine.")
    total_seconds: Positive = Field(600, description="For the whole answer.")


class AdmissionConfig(_Strict):
    """How many requests an engine gets and how many wait for it, for each model."""

    surplus: int = Field(
        1, ge=0, le=64, description="Requests in an engine beyond its slots, so that none idles."
    )
    queue_size: int = Field(
        128, ge=0, le=100_000, description="Requests that may wait; beyond it 429."
    )


class RetryConfig(_Strict):
    """How an engine that cannot be reached is tried again, within `timeouts.queue_seconds`."""

    first_delay_seconds: Positive = Field(0.1, description="Doubled each time, with jitter.")
    max_delay_seconds: Positive = Field(2, description="The longest pause between two tries.")


class ModelConfig(_Strict):
    """One model that clients can name."""

    id: ModelId = Field(description="The name clients send as `model`.")
    engine: EngineName = Field("llama-server", description="The kind of program that serves it.")
    serves: Literal["text", "embeddings"] = Field(
        "text", description="text: chats and completions; embeddings: vectors."
    )
    replicas: list[BaseUrl] = Field(
        min_length=1, max_length=1, description="Base URL of its engine, without /v1."
    )
    slots: int = Field(4, ge=1, le=4096, description="What its engine does at the same time.")
    context_overflow: Literal["error", "drop_oldest"] = Field(
        "error",
        description="A chat that does not fit: a 400, or its oldest messages are left out.",
    )
    defaults: RequestFields = Field(
        {}, description="Request fields that apply where a client sends none."
    )
    timeouts: TimeoutConfig | None = Field(None, description="Instead of the common ones.")


class LocalConfig(_Strict):
    """The engines that `make local` starts."""

    model: Path = Field(
        Path("models/tiny/tiny-q8_0.gguf"), description="GGUF file; MODEL overrides it."
    )
    slots: int = Field(4, ge=1, le=64, description="Generations at the same time.")
    context_tokens: int = Field(
        4096, ge=256, description="Per slot; less where the model was trained on less."
    )
    threads: int = Field(0, ge=0, description="0: one less than the cores, at least 1.")
    context_overflow: Literal["error", "drop_oldest"] = Field(
        "error", description="As in a model's entry."
    )
    defaults: RequestFields = Field({"temperature": 0.7}, description="As in a model's entry.")
    tiny_defaults: RequestFields = Field(
        {"temperature": 0.0}, description="The same for the shipped tiny model."
    )
    embeddings: bool = Field(
        False,  # noqa: FBT003 - pydantic's way to say a default
        description="Start a second engine, for embeddings; EMBEDDINGS overrides it.",
    )
    embedding_slots: int = Field(2, ge=1, le=64, description="Texts embedded at the same time.")
    embedding_context_tokens: int = Field(
        512, ge=64, description="Of one text; less where the model was trained on less."
    )
    start_seconds: Positive = Field(300, description="For an engine to load its model.")
    hang_seconds: Positive = Field(
        15, description="An engine silent on /health for this long is restarted."
    )


class Stack(_Strict):
    """`configs/stack.yaml`: how the stack behaves and which models it serves."""

    gateway: GatewayConfig = GatewayConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    admission: AdmissionConfig = AdmissionConfig()
    retries: RetryConfig = RetryConfig()
    models: list[ModelConfig] = Field(min_length=1)
    local: LocalConfig = LocalConfig()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [model.id for model in self.models]
        doubled = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if doubled:
            raise ValueError(f"two models have the id {doubled[0]!r}")
        return self

    @model_validator(mode="after")
    def _each_worker_has_a_place(self) -> Self:
        for model in self.models:
            places = model.slots + self.admission.surplus
            if places < self.gateway.workers:
                raise ValueError(
                    f"gateway.workers is {self.gateway.workers}, and they share the {places} "
                    f"places (slots and admission.surplus) of {model.id!r}: fewer workers, please"
                )
        return self


@dataclass(frozen=True)
class Settings:
    """Everything the stack was told, checked."""

    environment: Environment
    stack: Stack

    @property
    def serves_embeddings(self) -> bool:
        """Whether `make local` starts the engine for embeddings; a model named for it says so."""
        if self.environment.embeddings is not None:
            return self.environment.embeddings
        return self.stack.local.embeddings or self.environment.embedding_model is not None

    def models(self) -> list[Model]:
        """The catalogue's entries for the engine room."""
        key = self.environment.engine_api_key
        return [
            Model(
                id=entry.id,
                engine=ENGINES[entry.engine],
                serves=entry.serves,
                replicas=tuple(entry.replicas),
                slots=entry.slots,
                context_overflow=entry.context_overflow,
                timeouts=Timeouts(**(entry.timeouts or self.stack.timeouts).model_dump()),
                defaults=entry.defaults,
                api_key=key.get_secret_value() if key else None,
                created=_created(self.environment.stack_config),
            )
            for entry in self.stack.models
        ]


def load_settings(variables: Mapping[str, str] | None = None) -> Settings:
    """Read the environment (or the given variables), `.env` and the stack file."""
    environment = load_environment(variables)
    return Settings(environment, load_stack(environment.stack_config))


def load_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The environment over `.env`. An empty value unsets; strangers in the environment pass."""
    names = Environment.model_fields
    sources: dict[str, str] = {}
    values: dict[str, str] = {}
    from_file = _read_env_file(Path(ENV_FILE)) if variables is None else {}
    _refuse_unknown(from_file, (name.upper() for name in names), ENV_FILE)
    for mapping, source in (
        (from_file, ENV_FILE),
        (os.environ if variables is None else variables, "the environment"),
    ):
        for name in names:
            value = mapping.get(name.upper())
            if value:
                values[name] = value
                sources[name] = source
            elif value == "":  # set to nothing: not set, whatever an earlier source says
                values.pop(name, None)
    try:
        return Environment.model_validate(values)
    except ValidationError as exc:
        lines = []
        for error in exc.errors():
            name = str(error["loc"][0])
            lines.append(f"{name.upper()} in {sources[name]}: {_reason(error)}")
        raise ConfigurationError("\n".join(lines)) from exc


def _read_env_file(path: Path) -> dict[str, str | None]:
    """The assignments of `.env`, nothing when there is none."""
    if not path.exists():
        return {}
    text = _read_text(path)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise ConfigurationError(
                f"{path}, line {binding.original.line}: is no assignment such as PORT=8001."
            )
    return dotenv_values(stream=io.StringIO(text))


def _read_text(path: Path, remedy: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{path}: cannot be read ({reason}).{remedy}") from exc


def load_stack(path: Path) -> Stack:
    """Read and check a stack file."""
    text = _read_text(path, " STACK_CONFIG names the file to use.")
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(exc, "problem", None) or "it is not valid YAML"
        raise ConfigurationError(f"{path}{line}: {problem}.") from exc
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: must hold keys such as 'models:'.")
    try:
        return Stack.model_validate(document)
    except ValidationError as exc:
        lines = [f"{path}: {_describe(error)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc


def inherited_environment() -> dict[str, str]:
    """Our environment for a child process, without what would change an engine's flags."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLAMA_", "GGML_"))
    }


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets the last of two equal keys win in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _describe(error: Any) -> str:
    location: tuple[int | str, ...] = error["loc"]
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in location)) or "the file"
    if error["type"] != "extra_forbidden":
        return f"{path}: {_reason(error)}"
    known = _keys_at(location[:-1])
    return f"unknown key '{path}'.{_suggestion(str(location[-1]), known)}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that `Stack` knows at a place in the document."""
    model: type[BaseModel] = Stack
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(
                candidate
                for candidate in (annotation, *get_args(annotation))
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            )
    return list(model.model_fields)


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known here: {', '.join(known)}."


def _refuse_unknown(keys: Iterable[str], known: Iterable[str], source: str) -> None:
    allowed = list(known)
    for key in keys:
        if key not in allowed:
            raise ConfigurationError(f"{source}: unknown key '{key}'.{_suggestion(key, allowed)}")


def _reason(error: Any) -> str:
    value = error["input"]
    shown = "" if isinstance(value, dict | list) else f", not {value!r}"
    reason = str(error["msg"]).removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:] + shown + "."


def _created(path: Path) -> int:
    return int(path.stat().st_mtime) if path.exists() else 0
