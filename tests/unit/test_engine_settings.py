"""The variables that say where `make start` has its engines, and the `.env` that it shares with
`make local`.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.dimensions import Dimensions
from api_server.settings import ENGINE_NAMES, REPOSITORY, Environment, load_settings
from api_server.settings.compose_names import COMPOSE_NAMES, START_NAMES

TOLD = {
    "STACK_CONFIG": str(REPOSITORY / "configs/stack.yaml"),
    "ENGINE_URLS": "http://one:8080, http://two:8080",
    "ENGINE_SLOTS": "32",
}
STACK = """
models:
  - id: mine
    engine: vllm
    replicas: [http://127.0.0.1:1]
    name_at_engine: other
    api_key_env: MY_KEY
    context_overflow: drop_oldest
    fallbacks: [beside, far]
    retries: {resends: 3}
    defaults: {top_p: 0.9, temperature: 0.1}
    timeouts: {idle_seconds: 7}
  - {id: beside, replicas: ['http://127.0.0.1:2']}
  - {id: far, engine: openai, location: cloud, replicas: ['https://api.openai.com'],
     fallbacks: [beside, mine]}
"""


def served(told: dict[str, str]) -> dict[str, Model]:
    return {model.id: model for model in load_settings(told).models()}


def stack_of(tmp_path: Path, text: str = STACK) -> dict[str, str]:
    path = tmp_path / "stack.yaml"
    path.write_text(text)
    return TOLD | {"STACK_CONFIG": str(path)}


def refusal(told: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(told)
    return str(caught.value)


def test_nothing_changes_where_no_engine_is_told() -> None:
    told = {"STACK_CONFIG": TOLD["STACK_CONFIG"], "ENGINE_SLOTS": "7", "MODEL_NAME": "other"}
    (model,) = served(told).values()
    assert (model.id, model.replicas) == ("llama-3.3-8b-instruct", ("http://127.0.0.1:8080",))
    assert (model.slots, model.expected) == (4, None)


def test_engines_of_the_variables_serve_the_model() -> None:
    told = TOLD | {"ENGINE_CONTEXT_TOKENS": "4096", "ENGINE_API_KEY": "of-the-engine"}
    (model,) = served(told).values()
    assert model.id == "llama-3.3-8b-instruct"
    assert model.engine.name == "llama-server"
    assert model.replicas == ("http://one:8080", "http://two:8080")
    assert (model.slots, model.expected) == (32, Dimensions(32, 4096))
    assert model.api_key == "of-the-engine"


@pytest.mark.parametrize(
    ("engine", "row"),
    [
        ("llama-cpp", "llama-server"),
        ("llama-server", "llama-server"),
        ("max", "max-serve"),
        ("external", "openai-compatible"),
        ("vllm", "vllm"),
    ],
)
def test_an_engine_is_a_row_of_the_table(engine: str, row: str) -> None:
    (model,) = served(TOLD | {"ENGINE": engine}).values()
    assert model.engine.name == row


@pytest.mark.parametrize("engine", ["transformers", "custom", "lama-cpp"])
def test_other_engines_are_refused(engine: str) -> None:
    assert "ENGINE in the environment: is no engine with URLs." in refusal(
        TOLD | {"ENGINE": engine}
    )


@pytest.mark.parametrize(
    ("urls", "fragment"),
    [
        ("one:8080", "must be a base URL"),
        ("http://one:8080/v1", "without /v1"),
        ("http://one:8080,http://one:8080/", "stands twice"),
        (" , ", "at least 1 item"),
    ],
)
def test_urls_are_checked_like_replicas(urls: str, fragment: str) -> None:
    message = refusal(TOLD | {"ENGINE_URLS": urls})
    assert message.startswith("ENGINE_URLS in the environment: ")
    assert fragment in message


def test_the_configuration_of_the_engine_says_how_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(
        "batching: {max_batch_size: 12, timeout_ms: 90000}\n"
        "inference: {max_tokens: 500, temperature: 0.25}\n"
    )
    told = {name: value for name, value in TOLD.items() if name != "ENGINE_SLOTS"}
    (model,) = served(told | {"ENGINE_CONFIG": str(path)}).values()
    assert (model.slots, model.expected) == (12, None)
    assert model.max_output_tokens == 500
    assert model.timeouts.total_seconds == 90
    assert model.defaults == {"temperature": 0.25}


@pytest.mark.parametrize("config", ["", str(REPOSITORY / "configs/llama-cpp-config.yaml")])
def test_slots_that_nobody_tells_are_an_error(config: str) -> None:
    message = refusal(TOLD | {"ENGINE_SLOTS": "", "ENGINE_CONFIG": config})
    assert "set ENGINE_SLOTS, or batching.max_batch_size" in message


def test_an_entry_of_the_same_id_keeps_what_does_not_say_where_the_model_is(tmp_path: Path) -> None:
    config = str(REPOSITORY / "configs/llama-cpp-config.yaml")
    models = served(stack_of(tmp_path) | {"MODEL_NAME": "mine", "ENGINE_CONFIG": config})
    mine = models["mine"]
    assert (mine.engine.name, mine.name_at_engine, mine.api_key) == ("llama-server", None, None)
    assert mine.context_overflow == "drop_oldest"
    assert mine.retries.resends == 3
    assert mine.defaults == {"top_p": 0.9, "temperature": 0.7}
    assert (mine.timeouts.idle_seconds, mine.timeouts.total_seconds) == (7, 120)


def test_local_models_give_way_and_nobody_falls_back_on_them(tmp_path: Path) -> None:
    models = served(stack_of(tmp_path) | {"MODEL_NAME": "mine"})
    assert list(models) == ["mine", "far"]
    assert models["mine"].fallbacks == ("far",)
    assert models["far"].fallbacks == ("mine",)


def test_a_model_in_the_cloud_keeps_its_name(tmp_path: Path) -> None:
    message = refusal(stack_of(tmp_path) | {"MODEL_NAME": "far"})
    assert "MODEL_NAME: " in message
    assert "has a model 'far' in the cloud" in message


def test_an_engine_for_embeddings_is_one_more_model() -> None:
    models = served(TOLD | {"EMBEDDINGS_URL": "http://vectors:8080"})
    assert list(models) == ["llama-3.3-8b-instruct", "nomic-embed-text-v1.5"]
    vectors = models["nomic-embed-text-v1.5"]
    assert (vectors.serves, vectors.slots, vectors.expected) == ("embeddings", 4, None)
    without = {"STACK_CONFIG": TOLD["STACK_CONFIG"], "EMBEDDINGS_URL": "http://vectors:8080"}
    assert served(without)["llama-3.3-8b-instruct"].replicas == ("http://127.0.0.1:8080",)
    same = TOLD | {"EMBEDDINGS_URL": "http://v:1", "EMBEDDINGS_NAME": "llama-3.3-8b-instruct"}
    assert "rename one" in refusal(same)


def test_more_workers_than_places_are_refused_here_too(tmp_path: Path) -> None:
    text = STACK + "gateway: {workers: 4}\n"
    message = refusal(stack_of(tmp_path, text) | {"ENGINE_SLOTS": "1", "MODEL_NAME": "mine"})
    assert "with ENGINE_URLS" in message
    assert "gateway.workers is 4" in message


def test_the_drain_is_that_of_the_variable() -> None:
    assert load_settings({"STACK_CONFIG": TOLD["STACK_CONFIG"]}).drain_seconds == 30
    assert load_settings(TOLD | {"DRAIN_SECONDS": "120"}).drain_seconds == 120


def test_keys_of_the_stores_are_not_shown() -> None:
    secrets = dict.fromkeys(("S3_ACCESS_KEY", "S3_SECRET_KEY", "QDRANT_API_KEY"), "hush-hush")
    assert "hush-hush" not in repr(load_settings(TOLD | secrets))


def test_a_warning_about_the_key_is_not_for_engines_that_were_named_for_it() -> None:
    told = TOLD | {"ENGINE_URLS": "https://engines.example.com", "ENGINE_API_KEY": "of-the-engine"}
    assert load_settings(told).warnings() == []


# the `.env` of a checkout, which is for `make local` and `make start`


def compose_variables() -> set[str]:
    """All that the compose files read; `$$` is a dollar of the shell inside."""
    found = set()
    for path in REPOSITORY.glob("docker-compose*.yaml"):
        text = re.sub(r"(?m)^\s*#.*$", "", path.read_text())
        found |= set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text))
    return found


def test_names_of_the_compose_files_are_known_here() -> None:
    ours = {name.upper() for name in Environment.model_fields}
    assert compose_variables() - ours == COMPOSE_NAMES
    assert not START_NAMES & (COMPOSE_NAMES | ours)


ENV = """
# --- written by make start ---
COMPOSE_FILE=docker-compose.yaml:docker-compose.gpu.yaml
COMPOSE_PROFILES=llama-cpp
ENGINE_URLS=http://llama-cpp:8080
ENGINE_SLOTS=32
ENGINE_CONTEXT_TOKENS=4096
LLAMA_CPP_FLAGS=--parallel 32 --ctx-size 131072 --metrics
MODEL_FILE=llama-3.3-8b-instruct-q4_k_m.gguf
# ---
DEVICE=auto
ENGINE=llama-cpp
EMBEDDINGS_URL=http://embeddings:8080
ENGINE_API_KEY=0123456789abcdef
POSTGRES_PASSWORD=0123456789abcdef
REDIS_PASSWORD=0123456789abcdef
STACK_UID=1000
STACK_API_KEY=sk-0123456789abcdef
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the `.env` of `make start`, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in Environment.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("STACK_CONFIG", TOLD["STACK_CONFIG"])
    (tmp_path / ".env").write_text(ENV)
    return tmp_path


def test_the_env_file_of_make_start_is_read(checkout: Path) -> None:
    settings = load_settings()
    assert settings.models()[0].replicas == ("http://llama-cpp:8080",)
    (checkout / ".env").write_text(ENV + "LLAMA_CPP_FLAG=--x\n")
    with pytest.raises(
        ConfigurationError, match=r"'LLAMA_CPP_FLAG'\. Did you mean 'LLAMA_CPP_FLAGS'"
    ):
        load_settings()


def test_make_local_does_not_heed_the_engines_of_make_start(checkout: Path) -> None:
    def seen(settings: Any) -> Any:
        plain = settings.environment.model_copy(update={"engine_api_key": None})
        return plain, settings.stack

    with_file = load_settings(without=ENGINE_NAMES)
    (checkout / ".env").unlink()
    assert seen(with_file) == seen(load_settings())


@pytest.mark.usefixtures("checkout")
def test_a_stack_file_that_is_asked_for_by_name_is_served_as_it_stands() -> None:
    settings = load_settings(stack_config=REPOSITORY / "configs/stack.yaml")
    assert settings.models()[0].replicas == ("http://127.0.0.1:8080",)
