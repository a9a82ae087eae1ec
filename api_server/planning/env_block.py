"""The lines for `.env`, as Compose v1 and v2 both read them: without quotes. Pure functions."""

import re
from collections.abc import Mapping, Sequence

from api_server.errors import ConfigurationError

BASE_FILE = "docker-compose.yaml"
GPU_FILE = "docker-compose.gpu.yaml"
GPUS_FILE = "docker-compose.gpus.yaml"
PROFILES = {"llama-cpp": "llama-cpp", "max": "max"}
SERVICES = {"llama-cpp": "llama-cpp", "max": "max-serve"}
PORT = 8080

_LINE_VALUE = re.compile(r"[A-Za-z0-9._:/,=@+-]+( [A-Za-z0-9._:/,=@+-]+)*")


def compose_files(gpus: int, more: Sequence[str] = (), *, are_chosen: bool = False) -> str:
    """COMPOSE_FILE: the base, what the GPUs need, then what the user added, each once.

    `are_chosen`: certain GPUs are meant, not whichever one Docker takes.
    """
    hardware = [] if gpus == 0 else [GPU_FILE if gpus == 1 and not are_chosen else GPUS_FILE]
    return ":".join(dict.fromkeys([BASE_FILE, *hardware, *more]))


def profiles(engine: str, more: Sequence[str] = ()) -> str:
    """COMPOSE_PROFILES: the engine's, then what the user added; may be empty."""
    own = [PROFILES[engine]] if engine in PROFILES else []
    return ",".join(dict.fromkeys([*own, *more]))


def engine_names(engine: str, count: int) -> list[str]:
    """The services of an engine: llama-cpp, llama-cpp-1, ..."""
    service = SERVICES[engine]
    return [service if number == 0 else f"{service}-{number}" for number in range(max(1, count))]


def engine_urls(engine: str, count: int) -> str:
    """ENGINE_URLS of so many of them."""
    return ",".join(f"http://{name}:{PORT}" for name in engine_names(engine, count))


def lines(values: Mapping[str, str]) -> str:
    """KEY=VALUE lines. Raises `ConfigurationError` for a value that would need quotes."""
    for name, value in values.items():
        if value and not _LINE_VALUE.fullmatch(value):
            raise ConfigurationError(
                f"{name}: {value!r} cannot stand in .env: use letters, digits and ._:/,=@+-"
            )
    return "".join(f"{name}={value}\n" for name, value in values.items())
