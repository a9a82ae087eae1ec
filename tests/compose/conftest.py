"""One bring-up for the whole session: `make start` in a copy of this checkout, on real Docker."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import yaml

from api_server.local.embedding_build import build_embedding_model
from api_server.local.engine_build import build_engine
from api_server.local.terminal import TerminalSay
from tests.compose.daemon import CannotRunError, docker, running_daemon
from tests.compose.project import Project, checkout, image_name
from tests.compose.stand_ins import build_all

ORDER = ("start", "containers", "clients", "kept", "scale", "outages", "backup", "by_hand")
RUNNING = (
    "front",
    "api-server",
    "llama-cpp",
    "embeddings",
    "postgres",
    "redis",
    "qdrant",
    "minio",
    "prometheus",
    "grafana",
)
ENDED = ("model-init", "bucket-init")
SECRETS = (
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "QDRANT_API_KEY",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "GRAFANA_PASSWORD",
    "GRAFANA_POSTGRES_PASSWORD",
    "ENGINE_API_KEY",
    "STACK_API_KEY",
)
PORTS = {"API_PORT": "8000", "GRAFANA_PORT": "3000", "LOCUST_PORT": "8089"}
GATEWAYS = 3
SLOTS = 256
CONTEXT_TOKENS = 512
"""The tiny model has room for more streams than the rolling restart has clients."""

MOST_FILE_BYTES = 32 * 2**20
VECTOR_SIZE = 384
"""Of all-MiniLM-L6-v2."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--transcript", type=Path, help="write what make start prints to this file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From what leaves the stack as it was to what takes it down."""
    here = str(Path(__file__).parent)
    ours = [item for item in items if str(item.path).startswith(here)]
    if len(ours) == len(items):
        items.sort(key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A checkout with a `.env`, nothing of it started."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "llm-serving-stack" / "compose"
    say = TerminalSay(sys.stderr)
    try:
        with running_daemon(cache / "docker"):
            engine = asyncio.run(build_engine(cache_home=home, say=say))
            embedding = asyncio.run(build_embedding_model(cache_home=home, say=say))
            images = build_all(cache, engine)
            with checkout(tmp_path_factory.mktemp("stack"), images, embedding) as made:
                _give_many_slots(made.folder / "configs/llama-cpp-config.yaml")
                _take_short_vectors(made.folder / "init-scripts/qdrant/collections.yaml")
                _change_stack_file(made.folder / "configs")
                yield made
    except CannotRunError as exc:
        pytest.exit(f"the stack cannot be brought up here: {exc}.", returncode=2)


def _give_many_slots(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    document["batching"]["max_batch_size"] = SLOTS
    document["inference"]["context_length"] = CONTEXT_TOKENS
    path.write_text(yaml.safe_dump(document))


def _take_short_vectors(path: Path) -> None:
    """The model of the tests is another one than the collection was written for."""
    document = yaml.safe_load(path.read_text())
    document["chunks"]["vector_size"] = VECTOR_SIZE
    path.write_text(yaml.safe_dump(document))


def _change_stack_file(configs: Path) -> None:
    """A function of the operator, as docs/start.md says; no file of half a gigabyte for a test."""
    (configs / "town.py").write_text("def hour() -> str:\n    return 'a quarter past nine'\n")
    document = yaml.safe_load((configs / "stack.yaml").read_text())
    document["assistants"]["functions"] = {"hour": {"call": "configs.town:hour"}}
    document["files"]["max_file_bytes"] = MOST_FILE_BYTES
    (configs / "stack.yaml").write_text(yaml.safe_dump(document))


@dataclass(frozen=True)
class Stack:
    """The project after `make start`, what that printed and how long it took."""

    project: Project
    transcript: str
    start_seconds: float

    @property
    def url(self) -> str:
        return self.project.url

    @property
    def key(self) -> str:
        return self.project.setting("STACK_API_KEY")


@pytest.fixture(scope="session")
def stack(project: Project, request: pytest.FixtureRequest) -> Stack:
    began = time.monotonic()
    transcript = project.start()
    seconds = time.monotonic() - began
    if path := request.config.getoption("--transcript"):
        path.write_text(without_what_changes(project, transcript))
    return Stack(project, transcript, seconds)


def without_what_changes(project: Project, transcript: str) -> str:
    """As somebody would see it who has neither our secrets nor our ports."""
    replaced = {project.setting(name): "..." for name in SECRETS}
    replaced |= {project.setting(name): port for name, port in PORTS.items()}
    replaced |= {image_name(project.name): "llm-serving-stack/api-server:0.1.0"}
    replaced |= {project.name: "llm-serving-stack", str(project.folder): "/srv/llm-serving-stack"}
    replaced |= {docker("info", "--format", "{{.DockerRootDir}}").strip(): "/var/lib/docker"}
    for found, shown in replaced.items():
        transcript = transcript.replace(found, shown)
    return transcript


@pytest.fixture(scope="session")
def scaled(stack: Stack) -> Stack:
    """The same stack, with three gateways that the front has found."""
    options = ["--detach", "--no-recreate", "--scale", f"api-server={GATEWAYS}"]
    stack.project.compose("up", *options)
    stack.project.wait_healthy("api-server")
    time.sleep(3)  # until the front has asked for names, and whether they are well
    return stack


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    url = f"{stack.url}/v1"
    with openai.OpenAI(base_url=url, api_key=stack.key, max_retries=0, timeout=60) as client:
        yield client
