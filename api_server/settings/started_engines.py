"""The models of the engines that `make start` runs, or that stand elsewhere: named by variables
(ENGINE_URLS, EMBEDDINGS_URL) in the place of the stack file's local models. Pure, but for the file
that ENGINE_CONFIG names.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api_server.errors import ConfigurationError
from api_server.inference.dimensions import Dimensions
from api_server.inference.engines import LLAMA_SERVER
from api_server.settings.engine_file import EngineConfig, load_engine_config
from api_server.settings.environment import Environment
from api_server.settings.explaining import explain
from api_server.settings.stack import ONLY_IN_PROCESS, ModelConfig, Stack
from api_server.settings.values import ENGINE_CHOICES

EMBEDDING_SLOTS = 4
"""As `--parallel` in docker-compose.yaml."""

_REPLACED = frozenset(
    {*("engine", "serves", "location", "replicas", "name_at_engine", "api_key_env", "slots")}
    | set(ONLY_IN_PROCESS)
)
"""What of an entry of the stack file says where its model is, and so does not hold any more."""


def with_started_engines(stack: Stack, environment: Environment) -> Stack:
    """The stack with the models of the variables; as it is where they are not set.

    With ENGINE_URLS the local models of the stack file are not served, those in the cloud are. An
    entry that has the same id as a model of ours still says everything but where it is; of ENGINE_
    CONFIG come its temperature, its longest answer and the time for one. Raises
    `ConfigurationError`.
    """
    entries = _entries(stack, environment)
    if not entries:
        return stack
    ours = {entry["id"] for entry in entries}
    _check_ids(stack, environment, entries)
    stays = [
        _as_told(entry)
        for entry in stack.models
        if entry.id not in ours and (entry.location == "cloud" or not environment.engine_urls)
    ]
    served = ours | {entry["id"] for entry in stays}
    for entry in (*entries, *stays):
        if "fallbacks" in entry:
            entry["fallbacks"] = [id_ for id_ in entry["fallbacks"] if id_ in served]
    document = stack.model_dump(exclude_unset=True) | {"models": [*entries, *stays]}
    try:
        return Stack.model_validate(document)
    except ValidationError as exc:
        lines = [
            f"{environment.stack_config}, with ENGINE_URLS: {explain(error, Stack)}"
            for error in exc.errors()
        ]
        raise ConfigurationError("\n".join(lines)) from exc


def expected_of(environment: Environment) -> Mapping[str, Dimensions]:
    """By model, what each of its engines must be found with; nothing where nobody said."""
    told = Dimensions(environment.engine_slots, environment.engine_context_tokens)
    if not environment.engine_urls or told == Dimensions():
        return {}
    return {environment.model_name: told}


def _entries(stack: Stack, environment: Environment) -> list[dict[str, Any]]:
    entries = []
    if environment.engine_urls:
        path = environment.engine_config
        config = load_engine_config(path) if path is not None else None
        entry = _kept(stack, environment.model_name) | {
            "id": environment.model_name,
            "engine": ENGINE_CHOICES.get(environment.engine, environment.engine),
            "replicas": environment.engine_urls,
            "slots": _slots(environment, config),
        }
        entries.append(_over(entry, config) if config is not None else entry)
    if environment.embeddings_url is not None:
        entries.append(
            _kept(stack, environment.embeddings_name)
            | {
                "id": environment.embeddings_name,
                "engine": LLAMA_SERVER.name,
                "serves": "embeddings",
                "replicas": [environment.embeddings_url],
                "slots": EMBEDDING_SLOTS,
            }
        )
    return entries


def _kept(stack: Stack, model_id: str) -> dict[str, Any]:
    """What the stack file says of a model, without where it is."""
    entry = next((entry for entry in stack.models if entry.id == model_id), None)
    told = _as_told(entry) if entry is not None else {}
    return {name: value for name, value in told.items() if name not in _REPLACED}


def _as_told(entry: ModelConfig) -> dict[str, Any]:
    return entry.model_dump(exclude_unset=True)


def _slots(environment: Environment, config: EngineConfig | None) -> int:
    if environment.engine_slots is not None:
        return environment.engine_slots
    size = config.batching.max_batch_size if config is not None else "auto"
    if isinstance(size, int):
        return size
    raise ConfigurationError(
        "ENGINE_URLS is set, and nobody says how many requests an engine there does at the same "
        "time: set ENGINE_SLOTS, or batching.max_batch_size to a number in the file that "
        "ENGINE_CONFIG names. (`make start` writes ENGINE_SLOTS into .env.)"
    )


def _over(entry: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    """The entry with what the engine's configuration says of answers."""
    total_seconds = config.batching.timeout_ms / 1000
    return entry | {
        "defaults": entry.get("defaults", {}) | {"temperature": config.inference.temperature},
        "max_output_tokens": config.inference.max_tokens,
        "timeouts": entry.get("timeouts", {}) | {"total_seconds": total_seconds},
    }


def _check_ids(stack: Stack, environment: Environment, entries: list[dict[str, Any]]) -> None:
    if len(entries) == 2 and entries[0]["id"] == entries[1]["id"]:
        raise ConfigurationError(
            f"MODEL_NAME and EMBEDDINGS_NAME are both {entries[0]['id']!r}: rename one of them."
        )
    for entry in entries:
        name = "EMBEDDINGS_NAME" if entry.get("serves") == "embeddings" else "MODEL_NAME"
        if any(each.id == entry["id"] and each.location == "cloud" for each in stack.models):
            raise ConfigurationError(
                f"{name}: {environment.stack_config} has a model {entry['id']!r} in the cloud. "
                f"Rename one of them."
            )
