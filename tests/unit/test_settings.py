"""Settings: one typed file, one place for the environment, errors that name key, source, remedy."""

import json
import re
from pathlib import Path

import pytest

from api_server.errors import ConfigurationError
from api_server.settings import (
    REPOSITORY,
    Environment,
    ModelConfig,
    Stack,
    functions_environment,
    load_environment,
    load_settings,
    load_stack,
)
from api_server.settings.compose_names import COMPOSE_NAMES, START_NAMES

MINIMAL = "models:\n  - {id: m, replicas: ['http://127.0.0.1:1']}\n"


def stack_error(tmp_path: Path, text: str) -> str:
    path = tmp_path / "stack.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_stack(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_shipped_stack_file_is_valid() -> None:
    stack = load_stack(REPOSITORY / "configs/stack.yaml")
    assert [model.id for model in stack.models] == ["llama-3.3-8b-instruct"]


def test_shipped_stack_file_names_every_key() -> None:
    text = (REPOSITORY / "configs/stack.yaml").read_text()
    shipped = load_stack(REPOSITORY / "configs/stack.yaml")
    for section in Stack.model_fields:
        assert re.search(rf"^{section}:", text, re.MULTILINE)
        if section != "models":
            for key in type(getattr(shipped, section)).model_fields:
                assert re.search(rf"^  {key}:", text, re.MULTILINE), f"{section}.{key}"
    for key in ModelConfig.model_fields:
        assert re.search(rf"^ +(- |# (.*, )?)?{key}\b", text, re.MULTILINE), f"models: {key}"


def test_schema_beside_the_stack_file_is_current() -> None:
    shipped = json.loads((REPOSITORY / "configs/stack.schema.json").read_text())
    assert shipped == Stack.model_json_schema(), "run: make schema"


def test_every_environment_setting_stands_in_the_example_and_the_docs() -> None:
    example = (REPOSITORY / ".env.example").read_text()
    table = (REPOSITORY / "docs/settings.md").read_text()
    for name in Environment.model_fields:
        assert re.search(rf"^#? ?{name.upper()}=", example, re.MULTILINE), name.upper()
        assert f"`{name.upper()}`" in table, name.upper()
    for name in re.findall(r"^#? ?([A-Z0-9_]+)=", example, re.MULTILINE):
        is_for_compose = name in COMPOSE_NAMES | START_NAMES
        assert is_for_compose or name.lower() in Environment.model_fields, name


def test_unknown_key_names_the_nearest_right_one(tmp_path: Path) -> None:
    message = stack_error(tmp_path, MINIMAL + "timeouts: {idle_second: 3}\n")
    assert "unknown key 'timeouts.idle_second'" in message
    assert "Did you mean 'idle_seconds'?" in message


def test_unknown_key_inside_a_list_names_its_place(tmp_path: Path) -> None:
    text = "models:\n  - {id: m, replicas: ['http://h:1'], engin: llama-server}\n"
    message = stack_error(tmp_path, text)
    assert "unknown key 'models[0].engin'" in message
    assert "Did you mean 'engine'?" in message


def test_more_workers_than_an_engine_has_places_are_refused(tmp_path: Path) -> None:
    message = stack_error(tmp_path, MINIMAL + "gateway: {workers: 6}\n")
    assert "gateway.workers is 6" in message
    assert "the 5 places" in message


def test_defaults_cannot_change_what_the_gateway_counts_on(tmp_path: Path) -> None:
    text = "models:\n  - {id: m, replicas: ['http://127.0.0.1:1'], defaults: {n: 2}}\n"
    assert "n cannot have a default" in stack_error(tmp_path, text)


def test_unknown_key_far_from_all_lists_the_known_ones(tmp_path: Path) -> None:
    message = stack_error(tmp_path, MINIMAL + "zzz: 1\n")
    assert "Known here: gateway, timeouts, admission, retries, breaker, health," in message


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    message = stack_error(tmp_path, MINIMAL + "gateway: {drain_seconds: -1, max_body_bytes: x}\n")
    assert "gateway.drain_seconds" in message
    assert "gateway.max_body_bytes" in message
    assert "'x'" in message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("models: [", "line"),
        ("- a\n- b\n", "must hold keys"),
        ("", "must hold keys"),
        ("models: []\n", "models"),
        ("models:\n  - {id: m, replicas: ['ftp://x']}\n", "base URL"),
        (MINIMAL + "gateway: {}\ngateway: {}\n", "the key 'gateway' stands twice"),
        (MINIMAL + "  - {id: m, replicas: ['http://127.0.0.1:2']}\n", "two models have the id 'm'"),
        (MINIMAL + "timeouts: {idle_seconds: .inf}\n", "timeouts.idle_seconds"),
        (MINIMAL + "breaker: {open_seconds: 60}\n", "max_open_seconds (30) is less than"),
    ],
)
def test_broken_stack_files_are_explained(tmp_path: Path, text: str, fragment: str) -> None:
    assert fragment in stack_error(tmp_path, text)


def test_missing_stack_file_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="STACK_CONFIG"):
        load_settings({"STACK_CONFIG": str(tmp_path / "none.yaml")})


def test_environment_error_names_variable_and_source() -> None:
    with pytest.raises(ConfigurationError, match=r"PORT in the environment: .*70000"):
        load_environment({"PORT": "70000"})


def test_env_file_is_read_and_its_unknown_keys_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORT", raising=False)
    Path(".env").write_text("PORT=8123\n")
    assert load_environment().port == 8123
    monkeypatch.setenv("PORT", "8124")
    assert load_environment().port == 8124
    Path(".env").write_text("PORTT=8123\n")
    with pytest.raises(ConfigurationError, match=r"\.env: unknown key 'PORTT'.*'PORT'"):
        load_environment()


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(b"PORT=1\n\xff\n", "UTF-8"), (b"PORT=8001\nnot a = line\n", "line 2")],
)
def test_broken_env_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, fragment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"\.env.*{fragment}"):
        load_environment()


def test_empty_variable_counts_as_not_set() -> None:
    assert load_environment({"PORT": "", "MODEL": ""}).port == 8000


@pytest.mark.parametrize(
    ("variables", "in_file", "expected"),
    [
        ({}, "false", False),
        ({}, "true", True),
        ({"EMBEDDINGS": "on"}, "false", True),
        ({"EMBEDDINGS": "off"}, "true", False),
        ({"EMBEDDINGS": ""}, "true", True),
        ({"EMBEDDING_MODEL": "/m.gguf"}, "false", True),
        ({"EMBEDDING_MODEL": "/m.gguf", "EMBEDDINGS": "off"}, "true", False),
    ],
)
def test_embeddings_are_served_only_when_asked_for(
    tmp_path: Path, variables: dict[str, str], in_file: str, expected: bool
) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(f"{MINIMAL}local: {{embeddings: {in_file}}}\n")
    settings = load_settings(variables | {"STACK_CONFIG": str(path)})
    assert settings.serves_embeddings is expected


def test_embeddings_that_are_neither_on_nor_off_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"EMBEDDINGS in the environment: .*'maybe'"):
        load_environment({"EMBEDDINGS": "maybe"})


def test_secrets_are_not_shown() -> None:
    environment = load_environment({"ENGINE_API_KEY": "hush-hush"})
    assert "hush-hush" not in repr(environment)
    settings = load_settings({"ENGINE_API_KEY": "hush-hush"})
    assert "hush-hush" not in repr(settings.models())


def test_functions_of_the_operators_do_not_get_the_stacks_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = ("POSTGRES_URL", "REDIS_URL", "S3_SECRET_KEY", "JWT_SECRET", "ADMIN_API_KEY")
    theirs = ("WEATHER_API_KEY", "PATH", "S3_URL")
    for name in (*ours, *theirs):
        monkeypatch.setenv(name, "x")
    environment = functions_environment()
    assert not set(ours) & set(environment)
    assert set(theirs) <= set(environment)
