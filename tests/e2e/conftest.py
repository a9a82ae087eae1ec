"""One `make local` for the whole session: the real gateway, the real engine, the tiny model."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.local_stack import LocalStack, local_stack

ENGINE_BUILD_SECONDS = 45 * 60
"""The first run on a machine compiles the engine."""

MODEL_SECONDS = 10 * 60
"""The first run on a machine downloads and converts the model for embeddings."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("local") / "data") as running:
        running.wait_ready(ENGINE_BUILD_SECONDS)
        yield running


@pytest.fixture(scope="session")
def embedding_stack(
    stack: LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """With embeddings; beside the session's, whose start compiled the engine."""
    assert stack.is_ready()
    folder = tmp_path_factory.mktemp("embedding")
    with local_stack(folder / "data", EMBEDDINGS="on") as running:
        running.wait_ready(MODEL_SECONDS)
        yield running


@pytest.fixture(scope="session")
def client(stack: LocalStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(stack: LocalStack) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{stack.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
