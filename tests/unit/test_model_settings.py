"""What a model's entry may say, what must go together, and which key goes where."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server.errors import ConfigurationError
from api_server.inference import engines
from api_server.inference.catalogue import Balancing, Model, Retries, Timeouts
from api_server.settings import REPOSITORY, Settings, load_environment, load_settings

HERE = "http://127.0.0.1:1"
SERVICE = {"AI_SERVICE_URL": "http://ai-service.example:7000"}


def settings_of(
    folder: Path, *models: Mapping[str, Any], env: Mapping[str, str] | None = None, **sections: Any
) -> Settings:
    """Settings with these models; each has a replica unless it says where it is."""
    entries = [
        dict(model) if "path" in model else {"replicas": [HERE]} | dict(model) for model in models
    ]
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump({"models": entries} | sections))
    return load_settings({"STACK_CONFIG": str(path)} | dict(env or {}))


def model_of(folder: Path, env: Mapping[str, str] | None = None, **entry: Any) -> Model:
    return settings_of(folder, {"id": "m"} | entry, env=env).models()[0]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an engine that runs in this process."""
    row = engines.Engine(name="in-here", health_path="", handler="transformers")
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "in-here": row})
    for place in ("values", "stack", "models"):
        monkeypatch.setattr(f"api_server.settings.{place}.ENGINES", engines.ENGINES)
    return "in-here"


def test_an_entry_says_nothing_and_gets_the_catalogues_own_defaults(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    own = Model(id="m", engine=engines.LLAMA_SERVER, replicas=(HERE,), created=model.created)
    assert model == own


def test_every_key_of_an_http_model_arrives(tmp_path: Path) -> None:
    model = model_of(
        tmp_path,
        env={"SOME_API_KEY": "hush"},
        engine="openai",
        location="cloud",
        replicas=["https://a.example", "https://b.example"],
        name_at_engine="vendor/Model-70B",
        api_key_env="SOME_API_KEY",
        slots=7,
        max_input_tokens=100,
        max_output_tokens=50,
        context_overflow="drop_oldest",
        defaults={"top_k": 3},
    )
    assert model.replicas == ("https://a.example", "https://b.example")
    assert (model.name_at_engine, model.api_key, model.location) == (
        "vendor/Model-70B",
        "hush",
        "cloud",
    )
    assert (model.slots, model.max_input_tokens, model.max_output_tokens) == (7, 100, 50)
    assert (model.context_overflow, model.defaults) == ("drop_oldest", {"top_k": 3})


def test_every_key_of_an_in_process_model_arrives(tmp_path: Path, in_process: str) -> None:
    model = model_of(
        tmp_path,
        env={"ENGINE_API_KEY": "hush"},
        engine=in_process,
        path="models/x.gguf",
        context_tokens=512,
        load="on_demand",
        idle_seconds=60,
        handler="my.module:Handler",
        options={"threads": 2},
    )
    assert model.path == REPOSITORY / "models/x.gguf"
    assert model.replicas == ()
    assert model.api_key is None
    assert (model.context_tokens, model.load, model.idle_seconds) == (512, "on_demand", 60.0)
    assert (model.handler, model.options) == ("my.module:Handler", {"threads": 2})


def test_common_sections_hold_where_a_model_says_nothing_else(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "timeouts": {"queue_seconds": 1, "idle_seconds": 2},
        "retries": {"resends": 3, "budget": 0.5},
        "breaker": {"failures": 9, "open_seconds": 2, "max_open_seconds": 8},
        "health": {"interval_seconds": 4},
        "balancing": {"prefix_affinity": False, "affinity_load": 2, "slow_start_seconds": 3},
    }
    own: dict[str, Any] = {
        "timeouts": {"idle_seconds": 5},
        "retries": {"budget": 0},
        "breaker": {"failures": 1},
        "health": {"interval_seconds": 1},
        "balancing": {"affinity_load": 3},
    }
    plain, special = settings_of(
        tmp_path, {"id": "plain"}, {"id": "special"} | own, **sections
    ).models()
    assert plain.timeouts == Timeouts(queue_seconds=1, idle_seconds=2)
    assert special.timeouts == Timeouts(queue_seconds=1, idle_seconds=5)
    assert plain.retries == Retries(resends=3, budget=0.5)
    assert special.retries == Retries(resends=3, budget=0)
    assert plain.balancing == Balancing(
        prefix_affinity=False,
        affinity_load=2,
        health_interval_seconds=4,
        slow_start_seconds=3,
        failures=9,
        open_seconds=2,
        max_open_seconds=8,
    )
    assert special.balancing == Balancing(
        prefix_affinity=False,
        affinity_load=3,
        health_interval_seconds=1,
        slow_start_seconds=3,
        failures=1,
        open_seconds=2,
        max_open_seconds=8,
    )


KEYS = {"ENGINE_API_KEY": "ours", "SOME_API_KEY": "theirs"}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, "ours"),
        ({"api_key_env": "SOME_API_KEY"}, "theirs"),
        ({"location": "cloud"}, None),
        ({"location": "cloud", "api_key_env": "SOME_API_KEY"}, "theirs"),
    ],
)
def test_our_own_key_never_goes_to_the_cloud(
    tmp_path: Path, entry: dict[str, Any], expected: str | None
) -> None:
    assert model_of(tmp_path, env=KEYS, **entry).api_key == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hush@h:1",
        "user:hush@h:1",
        "http://user:hu/sh@h:1",
        "http://h:1?key=hush",
        "http:// user:hush@h",
    ],
)
def test_a_password_in_a_url_is_an_error_that_does_not_show_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"models\[0\]\.replicas\[0\]: ") as in_file:
        model_of(tmp_path, replicas=[url])
    with pytest.raises(ConfigurationError, match=r"models\[0\]\.replicas: ") as no_list:
        model_of(tmp_path, replicas=url)
    with pytest.raises(ConfigurationError, match="AI_SERVICE_URL in the environment: ") as variable:
        load_environment({"AI_SERVICE_URL": url})
    for caught in (in_file, no_list, variable):
        shown = "".join(traceback.format_exception(caught.value))
        assert "hush" not in shown
        assert "hu/sh" not in shown
    if "@" in url:
        assert "api_key" in str(variable.value)


def test_ports_and_paths_tell_replicas_apart(tmp_path: Path) -> None:
    urls = ["http://a", "https://a", "http://a:443", "http://a/x", "http://a.b"]
    assert model_of(tmp_path, replicas=urls).replicas == tuple(urls)


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_key_is_named_with_its_model(tmp_path: Path, value: str | None) -> None:
    env = {} if value is None else {"SOME_API_KEY": value}
    with pytest.raises(ConfigurationError, match=r"SOME_API_KEY is not set, and the model 'm'"):
        model_of(tmp_path, env=env, api_key_env="SOME_API_KEY")


@pytest.mark.parametrize("name", ["SOME_API_KEY", "ENGINE_API_KEY", "AI_SERVICE_API_KEY"])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(
    tmp_path: Path, name: str
) -> None:
    env = {"SOME_API_KEY": "fine", name: "hush\nhush"}
    with pytest.raises(ConfigurationError, match=rf"{name} in the environment: .*ASCII") as caught:
        model_of(tmp_path, env=env, api_key_env="SOME_API_KEY")
    assert "hush" not in str(caught.value)


def test_keys_of_models_may_stand_in_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(tmp_path, {"id": "m"})
    document = {"models": [{"id": "m", "replicas": [HERE], "api_key_env": "SOME_API_KEY"}]}
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / ".env").write_text("SOME_API_KEY=theirs\nHF_TOKEN=x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STACK_CONFIG", "stack.yaml")
    monkeypatch.delenv("SOME_API_KEY", raising=False)
    assert load_settings().models()[0].api_key == "theirs"
    assert "theirs" not in repr(load_settings())


@pytest.mark.parametrize("typo", ["ENGIN_API_KEY", "ADMIN_APIKEY", "AI_SERVICE_KEY", "SOME_SECRET"])
def test_mistyped_settings_do_not_hide_as_keys_in_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typo: str
) -> None:
    (tmp_path / ".env").write_text(f"{typo}=x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"unknown key '{typo}'"):
        load_environment()


@pytest.mark.parametrize(
    ("entry", "fragment"),
    [
        ({"replicas": [HERE, HERE + "/"]}, "models[0].replicas: http://127.0.0.1:1 stands twice"),
        ({"replicas": ["http://a", "HTTP://A:80"]}, "models[0].replicas: http://a:80 stands twice"),
        ({"replicas": ["https://a:443/x", "https://a/x/"]}, "https://a:443/x stands twice"),
        ({"replicas": ["https://api.example/v1"]}, "without /v1"),
        ({"replicas": ["http://a..b:1"]}, "models[0].replicas[0]: has a host that is no name"),
        ({"replicas": []}, "needs replicas"),
        ({"engine": "llama-serve"}, "Did you mean 'llama-server'?"),
        ({"idle_seconds": 5}, "idle_seconds is for engines in the gateway's process"),
        ({"handler": "a:B"}, "handler is for engines in the gateway's process"),
        ({"handler": "a.B"}, "models[0].handler"),
        ({"path": "/m.gguf", "replicas": [HERE]}, "path is for engines in the gateway's process"),
        ({"api_key_env": "my_key"}, "models[0].api_key_env"),
        ({"api_key_env": "PATH"}, "models[0].api_key_env"),
        ({"fallbacks": ["m"]}, "'m' cannot stand in for itself"),
        ({"fallbacks": ["x", "x"]}, "each model can stand there once"),
        ({"fallbacks": ["x"]}, "the fallback 'x', which does not exist. Other models here: none."),
        ({"serves": "embeddings", "fallbacks": ["x"]}, "embeddings have none"),
        ({"max_input_tokens": 0}, "models[0].max_input_tokens"),
    ],
)
def test_what_does_not_fit_is_explained(
    tmp_path: Path, entry: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_of(tmp_path, **entry)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "fragment"),
    [
        ({"path": "x", "replicas": [HERE]}, "replicas is for engines behind HTTP"),
        ({"path": "x", "api_key_env": "A_KEY"}, "api_key_env is for engines behind HTTP"),
        ({"path": "x", "location": "cloud"}, "location cannot be cloud"),
        ({"path": None}, "needs path"),
    ],
)
def test_what_does_not_fit_in_process_is_explained(
    tmp_path: Path, in_process: str, entry: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        model_of(tmp_path, engine=in_process, **entry)
    assert fragment in str(caught.value)


def test_a_custom_engine_needs_its_handler_and_no_path(tmp_path: Path) -> None:
    entry = {"id": "m", "engine": "custom", "replicas": []}
    assert settings_of(tmp_path, entry | {"handler": "a.b:C"}).models()[0].path is None
    with pytest.raises(ConfigurationError, match="custom needs handler"):
        settings_of(tmp_path, entry | {"path": "x"})


def test_workers_do_not_share_an_in_process_model(tmp_path: Path, in_process: str) -> None:
    entry = {"id": "m", "engine": in_process, "path": "x"}
    with pytest.raises(ConfigurationError, match="each would load 'm' into its own memory"):
        settings_of(tmp_path, entry, gateway={"workers": 2})


def test_a_fallback_serves_the_same(tmp_path: Path) -> None:
    chat = {"id": "chat", "fallbacks": ["vectors"]}
    vectors = {"id": "vectors", "serves": "embeddings"}
    with pytest.raises(ConfigurationError, match="its fallback 'vectors' serves embeddings"):
        settings_of(tmp_path, chat, vectors)


def test_all_that_is_wrong_between_models_is_named_at_once(tmp_path: Path) -> None:
    one = {"id": "one", "fallbacks": ["x"], "api_key_env": "SOME_API_KEY"}
    with pytest.raises(ConfigurationError, match="SOME_API_KEY") as caught:
        settings_of(tmp_path, one, {"id": "two", "fallbacks": ["y"]})
    assert "'x'" in str(caught.value)
    assert "'y'" in str(caught.value)


def test_each_worker_has_a_place_also_when_one_replica_alone_is_left(tmp_path: Path) -> None:
    entry = {"id": "m", "slots": 2, "replicas": [HERE, "http://127.0.0.1:2"]}
    settings_of(tmp_path, entry, gateway={"workers": 3})
    with pytest.raises(ConfigurationError, match="the 3 places"):
        settings_of(tmp_path, entry, gateway={"workers": 4})


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("http://api.example", True),
        ("https://api.example", False),
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
    ],
)
def test_the_cloud_without_encryption_is_warned_about(
    tmp_path: Path, url: str, is_warned: bool
) -> None:
    settings = settings_of(tmp_path, {"id": "m", "location": "cloud", "replicas": [url]})
    assert [url in warning for warning in settings.warnings()] == [True] * is_warned


@pytest.mark.parametrize(
    ("url", "entry", "is_warned"),
    [
        ("https://api.example.com", {}, True),
        ("http://8.8.8.8:8080", {}, True),
        ("http://10.0.0.7:8080", {}, False),
        ("http://gpu-1:8080", {}, False),
        ("http://gpu.lab.internal", {}, False),
        ("https://api.example.com", {"location": "cloud"}, False),
        ("https://api.example.com", {"api_key_env": "SOME_API_KEY"}, False),
    ],
)
def test_our_own_key_on_its_way_out_is_warned_about(
    tmp_path: Path, url: str, entry: dict[str, Any], is_warned: bool
) -> None:
    model = {"id": "m", "replicas": [url]} | entry
    warnings = settings_of(tmp_path, model, env=KEYS).warnings()
    assert ["your ENGINE_API_KEY" in warning for warning in warnings] == [True] * is_warned
    assert not settings_of(tmp_path, model, env={"SOME_API_KEY": "theirs"}).warnings()


def test_the_external_service_is_one_more_model(tmp_path: Path) -> None:
    env = SERVICE | {"AI_SERVICE_API_KEY": "theirs", "ENGINE_API_KEY": "ours"}
    first, service = settings_of(tmp_path, {"id": "m"}, env=env).models()
    assert first.api_key == "ours"
    assert service.id == "mistral-7b"
    assert service.engine is engines.OPENAI_COMPATIBLE
    assert service.engine.health_path == "/health"
    assert service.replicas == ("http://ai-service.example:7000",)
    assert (service.api_key, service.location) == ("theirs", "cloud")
    assert (service.max_input_tokens, service.max_output_tokens) == (4096, 2048)
    assert service.context_overflow == "drop_oldest"
    assert service.timeouts == Timeouts(first_token_seconds=120, total_seconds=120)


def test_the_external_service_has_no_key_but_its_own(tmp_path: Path) -> None:
    env = SERVICE | {"ENGINE_API_KEY": "ours"}
    assert settings_of(tmp_path, {"id": "m"}, env=env).models()[1].api_key is None


def test_the_guides_block_for_the_env_file_is_read_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("""\
# AI Service (External AI Inference Service - Mistral 7B)
AI_SERVICE_URL=http://ai-service.example:7000
AI_SERVICE_API_KEY=                          # Optional: Add if service requires authentication
AI_SERVICE_MODEL=mistral-7b
AI_SERVICE_TIMEOUT=90                        # Request timeout in seconds
AI_SERVICE_MAX_INPUT_TOKENS=4000             # Maximum input context length
AI_SERVICE_MAX_OUTPUT_TOKENS=2000            # Maximum output generation length
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STACK_CONFIG", str(REPOSITORY / "configs/stack.yaml"))
    service = load_settings().models()[-1]
    assert (service.id, service.api_key, service.timeouts.total_seconds) == ("mistral-7b", None, 90)
    assert (service.max_input_tokens, service.max_output_tokens) == (4000, 2000)


def test_a_model_may_fall_back_on_the_external_service(tmp_path: Path) -> None:
    entry = {"id": "m", "fallbacks": ["mistral-7b"]}
    assert settings_of(tmp_path, entry, env=SERVICE).models()[0].fallbacks == ("mistral-7b",)
    with pytest.raises(ConfigurationError, match="'mistral-7b', which does not exist"):
        settings_of(tmp_path, entry)


def test_the_external_services_name_must_be_free(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"AI_SERVICE_MODEL: .* has a model 'm' too"):
        settings_of(tmp_path, {"id": "m"}, env=SERVICE | {"AI_SERVICE_MODEL": "m"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AI_SERVICE_URL", "ai-service.example"),
        ("AI_SERVICE_URL", "http://ai-service.example:7000/v1"),
        ("AI_SERVICE_TIMEOUT", "0"),
        ("AI_SERVICE_MAX_INPUT_TOKENS", "many"),
    ],
)
def test_a_wrong_value_for_the_service_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} in the environment"):
        load_environment({name: value})


def test_the_sample_for_the_cloud_is_valid_once_uncommented(tmp_path: Path) -> None:
    lines = (REPOSITORY / "configs/stack.yaml").read_text().splitlines()
    sample = [line for line in lines if line.startswith("#   ")]
    assert len(sample) > 3
    path = tmp_path / "stack.yaml"
    path.write_text(
        "\n".join(line.removeprefix("# ") if line in sample else line for line in lines)
    )
    env = {"STACK_CONFIG": str(path), "TOGETHER_API_KEY": "theirs", "ENGINE_API_KEY": "ours"}
    _, cloud = load_settings(env).models()
    assert cloud.location == "cloud"
    assert cloud.api_key == "theirs"
    assert cloud.name_at_engine == "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    assert load_settings(env).warnings() == []


def test_a_library_that_does_one_thing_at_a_time_has_one_slot(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"engine": "llama-cpp", "path": "x.gguf"}
    assert model_of(tmp_path, **entry).slots == 1
    assert model_of(tmp_path, **entry, slots=1).slots == 1
    with pytest.raises(ConfigurationError, match="slots: llama-cpp does 1 request at a time"):
        model_of(tmp_path, **entry, slots=2)


def test_a_models_breaker_is_checked_as_what_it_is_over_the_common_one(tmp_path: Path) -> None:
    fine = settings_of(
        tmp_path,
        {"id": "m", "breaker": {"open_seconds": 60}},
        breaker={"max_open_seconds": 120},
    )
    (model,) = fine.models()
    assert (model.balancing.open_seconds, model.balancing.max_open_seconds) == (60, 120)
    with pytest.raises(
        ConfigurationError,
        match=r"breaker of the model 'm', .* max_open_seconds \(5\) is less than open_seconds \(10",
    ):
        settings_of(
            tmp_path,
            {"id": "m", "breaker": {"max_open_seconds": 5}},
            breaker={"open_seconds": 10},
        )
    with pytest.raises(ConfigurationError, match=r"stack\.yaml: breaker: max_open_seconds \(5\)"):
        settings_of(tmp_path, {"id": "m"}, breaker={"open_seconds": 10, "max_open_seconds": 5})
