"""The real libraries on the tiny model. `make test-extras` has an environment for them."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_CPP, TRANSFORMERS
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.handlers.llama_cpp import LlamaCppHandler
from api_server.inference.handlers.threads import Outlet
from api_server.inference.handlers.transformers import TransformersHandler
from api_server.inference.schemas import GenerationParams, InferenceRequest, InferenceResponse
from tests.local_stack import REPOSITORY

SHIPPED = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
GREEDY = GenerationParams(do_sample=False)
SECONDS = 20.0

if any(importlib.util.find_spec(name) is None for name in ("torch", "llama_cpp")):
    raise pytest.UsageError("tests/extras needs packages of its own: run make test-extras")


@dataclass
class Served:
    """A loaded model and its handler."""

    handler: TransformersHandler | LlamaCppHandler
    loaded: LoadedModel

    def request(self, question: str | None = None, **fields: Any) -> InferenceRequest:
        """A greedy request: a chat of one question, unless a prompt is given."""
        if question is not None:
            fields["messages"] = [{"role": "user", "content": question}]
        return InferenceRequest(model_id=self.loaded.model_id, **{"params": GREEDY, **fields})

    async def pieces(self, request: InferenceRequest) -> tuple[list[str], InferenceResponse]:
        """A whole stream: its pieces and its summary."""
        *pieces, summary = [
            piece async for piece in self.handler.stream_infer(self.loaded, request)
        ]
        assert isinstance(summary, InferenceResponse)
        texts = [piece for piece in pieces if isinstance(piece, str)]
        assert len(texts) == len(pieces)
        return texts, summary

    @property
    def running(self) -> int:
        """How many threads work for it."""
        running: int = self.loaded.model_object.threads.running
        return running


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in Hugging Face's form."""
    target = tmp_path_factory.mktemp("tiny")
    derive = [sys.executable, "-m", "models.tiny.derive", "hf", str(target)]
    subprocess.run(derive, cwd=REPOSITORY, check=True, capture_output=True)
    return target


@pytest.fixture
def models(folder: Path) -> dict[str, Model]:
    """An entry for each library."""
    return {
        "transformers": Model("tiny-hf", TRANSFORMERS, path=folder, load="on_demand"),
        "llama-cpp": Model("tiny-gguf", LLAMA_CPP, path=SHIPPED, load="on_demand"),
    }


@pytest.fixture(params=["transformers", "llama-cpp"])
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    """Each library in turn."""
    return models[request.param]


def handler_of(model: Model) -> TransformersHandler | LlamaCppHandler:
    """Who serves an entry."""
    return TransformersHandler() if model.engine is TRANSFORMERS else LlamaCppHandler()


@pytest.fixture
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every reader goes as soon as there is an outlet, before the prompt is read."""
    made = Outlet.__init__

    def leave(outlet: Outlet, loop: asyncio.AbstractEventLoop) -> None:
        made(outlet, loop)
        outlet.close()

    monkeypatch.setattr(Outlet, "__init__", leave)
    return monkeypatch


@pytest.fixture
async def served(model: Model) -> AsyncIterator[Served]:
    """The tiny model, in each library in turn."""
    handler = handler_of(model)
    loaded = LoadedModel(model, await handler.load(model))
    assert isinstance(handler, InferenceHandler)
    assert handler.can_handle(loaded)
    served = Served(handler, loaded)
    yield served
    await until(lambda: served.running == 0)
    await handler.unload(loaded)


@pytest.fixture(scope="session", autouse=True)
def _closed_output() -> Iterator[None]:
    """llama_cpp opens /dev/null twice when it is imported, and warns of that at the end."""
    yield
    if (library := sys.modules.get("llama_cpp._utils")) is not None:
        library.outnull_file.close()
        library.errnull_file.close()
