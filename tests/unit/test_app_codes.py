"""The file of app codes: both forms, clear errors, no secret in any of them."""

import json
from pathlib import Path

import pytest

from api_server.errors import ConfigurationError
from api_server.settings import REPOSITORY, load_settings
from api_server.settings.app_codes import load_app_codes
from api_server.settings.placeholders import is_placeholder

CODE = "f3a9c1d27b8e4f60"
OTHER = "0b1c5d7e9fa2b4c6"
REQUIREMENTS = {
    "app_codes": {
        CODE: {
            "name": "FlashCards App",
            "allowed_request_types": ["generate_flashcard", "explain_concept", "create_quiz"],
            "rate_limit": "100/hour",
            "max_tokens": 1000,
        }
    }
}
AS_YAML = f"""
app_codes:
  {CODE}:
    name: FlashCards App
    allowed_request_types: [generate_flashcard, explain_concept, create_quiz]
    rate_limit: 100/hour
    max_tokens: 1000
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "codes"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [json.dumps(REQUIREMENTS), json.dumps(REQUIREMENTS, indent=2)])
def test_the_json_form_of_the_requirements_reads_as_the_yaml_one(tmp_path: Path, text: str) -> None:
    [app] = load_app_codes(written(tmp_path, text))
    assert [app] == load_app_codes(written(tmp_path, AS_YAML))
    assert (app.name, app.code) == ("FlashCards App", CODE)
    assert app.policy.rate_limits == ["100/hour"]
    assert app.policy.max_tokens == 1000
    assert (
        list(app.policy.request_types) == REQUIREMENTS["app_codes"][CODE]["allowed_request_types"]
    )
    assert {each.max_tokens for each in app.policy.request_types.values()} == {1000}
    assert CODE not in repr(app)


def test_an_empty_file_and_the_shipped_one_have_no_apps(tmp_path: Path) -> None:
    assert load_app_codes(written(tmp_path, "")) == []
    assert load_app_codes(written(tmp_path, "# nothing yet\n")) == []
    assert load_app_codes(REPOSITORY / "configs/app_codes.yaml") == []


def test_the_sample_in_the_shipped_file_is_right(tmp_path: Path) -> None:
    text = (REPOSITORY / "configs/app_codes.yaml").read_text()
    sample = text.split("app_codes: {}\n")[1]
    lines = [line.removeprefix("# ").removeprefix("#") for line in sample.splitlines()]
    plain = "\n".join(
        line.replace("    # ", "    ", 1) if "    # " in line else line for line in lines
    )
    plain = "\n".join(line for line in plain.splitlines() if not line.startswith("  # "))
    [app] = load_app_codes(written(tmp_path, plain))
    assert app.policy.request_types["create_quiz"].temperature == 0.3
    assert is_placeholder(app.code)


def test_what_a_type_says_itself_counts(tmp_path: Path) -> None:
    entry = {
        "name": "a",
        "allowed_request_types": ["plain", "quiz"],
        "request_types": {"quiz": {"prompt": "Ask: {request}", "max_tokens": 7}, "more": {}},
        "rate_limit": "9/minute",
        "rate_limits": ["9/minute", "50/hour"],
        "priority": "batch",
    }
    [app] = load_app_codes(written(tmp_path, json.dumps({"app_codes": {CODE: entry}})))
    assert set(app.policy.request_types) == {"plain", "quiz", "more"}
    assert app.policy.request_types["quiz"].max_tokens == 7
    assert app.policy.rate_limits == ["9/minute", "50/hour"]
    assert app.policy.priority == "batch"


@pytest.mark.parametrize(
    ("entry", "fragment"),
    [
        ({"name": "a", "rate_limt": "1/hour"}, "Did you mean 'rate_limit'?"),
        ({"name": "a", "rate_limit": "often"}, "no rate such as 100/hour"),
        ({"name": "a", "request_types": {"q": {"promt": ""}}}, "Did you mean 'prompt'?"),
        ({"name": "a", "allowed_request_types": []}, "allowed_request_types"),
        ({"name": "a", "allowed_request_types": ["a b"]}, "allowed_request_types[0]"),
        ({"name": "a\nb"}, "name"),
        ({"name": "development"}, "keeps for itself"),
        ({}, "name: field required"),
        ("text", "f3a..."),
    ],
)
def test_what_is_wrong_is_named_and_the_code_is_not(
    tmp_path: Path, entry: object, fragment: str
) -> None:
    path = written(tmp_path, json.dumps({"app_codes": {CODE: entry}}))
    with pytest.raises(ConfigurationError) as caught:
        load_app_codes(path)
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value)
    assert CODE not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("app_code: {}\n", "Did you mean 'app_codes'?"),
        ("- a\n", "it: "),
        ("app_codes: [", "line"),
        (f"app_codes:\n  {CODE}: {{name: a}}\n  {CODE}: {{name: b}}\n", "a key stands twice"),
        (f"app_codes:\n  {CODE}: {{name: a}}\n  {OTHER}: {{name: a}}\n", "two app codes have"),
        ("app_codes:\n  short: {name: a}\n", "string should match"),
        ("app_codes:\n  with space in it: {name: a}\n", "string should match"),
        ("app_codes:\n  1234567890123456: {name: a}\n", "string"),
    ],
)
def test_a_broken_file_is_explained(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_app_codes(written(tmp_path, text))
    assert fragment in str(caught.value)
    for code in (CODE, OTHER, "1234567890123456", "with space in it"):
        assert code not in str(caught.value)


PLACEHOLDERS = [
    *("changeme", "ChangeMe!", "changeme-changeme", "sk-xxx", "sk-xxxxxxxxxxxxxxxxxxxx", "secret"),
    *("abc123hash", "your-api-key-here", "your_secret_key", "aaaaaaaaaaaaaaaaaaaaaaaa", "password"),
    *("put-your-app-code-here", "0123456789abcdef", "1234567890123456", "postgres", "redis"),
    *("admin-api-key-1234", "replace-this-with-a-long-random-string", "my-super-secret-key"),
    *("test-test-test-test", "deadbeefdeadbeef", "abababababababab", "development-secret-key"),
]
SECRETS = [
    *("f3a9c1d27b8e4f60", "the-operator-alone-knows", "correct horse battery staple"),
    *("sk-Zb1pQ0v8yT3nX7mK2cW5", "9f86d081884c7d659a2feaa0c55ad015", "Tr0ub4dor&3xyz!Kq"),
]


@pytest.mark.parametrize("secret", PLACEHOLDERS)
def test_placeholders_are_known(secret: str) -> None:
    assert is_placeholder(secret)


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_not_taken_for_placeholders(secret: str) -> None:
    assert not is_placeholder(secret)


def test_looking_takes_no_time_whatever_it_is_shown() -> None:
    for text in ("1" * 5000 + "!z", "passpassword" * 500 + "zz", "a" * 3000 + "qz9", "abcd" * 999):
        is_placeholder(text)


GOOD = {
    "POSTGRES_URL": "postgresql://stack:Vq7xT2pLz9Rk4mNw@h/db",
    "REDIS_URL": "redis://:Hn3cYb8sWd6fGj1q@h:6379/0",
    "ADMIN_API_KEY": "the-operator-alone-knows",
    "JWT_SECRET": "Zb1pQ0v8yT3nX7mK2cW5Zb1pQ0v8yT3nX7mK2cW5",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_URL", "postgresql://stack:changeme@h/db"),
        ("POSTGRES_URL", "postgresql://stack:change%6De@h/db"),
        ("POSTGRES_URL", "postgresql://postgres:postgres@h/db"),
        ("REDIS_URL", "redis://:secret@h:6379/0"),
        ("ADMIN_API_KEY", "your-admin-key-here"),
        ("JWT_SECRET", "your-jwt-secret-of-32-characters-here"),
    ],
)
def test_a_placeholder_is_refused_outside_of_development(name: str, value: str) -> None:
    load_settings(GOOD).check_can_serve()
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings(GOOD | {name: value}).check_can_serve()
    assert value not in str(caught.value)
    load_settings(GOOD | {name: value, "ENVIRONMENT": "development"}).check_can_serve()


def test_a_placeholder_in_the_file_of_app_codes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codes.yaml").write_text("app_codes: {abc123hash: {name: FlashCards App}}\n")
    (tmp_path / "stack.yaml").write_text(
        "models:\n  - {id: m, replicas: ['http://127.0.0.1:1']}\n"
        f"apps: {{seed: {tmp_path}/codes.yaml}}\n"
    )
    settings = load_settings(GOOD | {"STACK_CONFIG": str(tmp_path / "stack.yaml")})
    with pytest.raises(ConfigurationError, match="the app code of 'FlashCards App'"):
        settings.check_can_serve()


def test_the_development_key_counts_in_development_alone() -> None:
    key = {"DEVELOPMENT_KEY": "sk-dev-Zb1pQ0v8yT3nX7mK2cW5"}
    production = load_settings(GOOD | key)
    assert production.development_key is None
    assert any("DEVELOPMENT_KEY" in warning for warning in production.warnings())
    development = load_settings(GOOD | key | {"ENVIRONMENT": "development"})
    assert development.development_key == key["DEVELOPMENT_KEY"]


def test_a_secret_that_signs_tokens_is_long() -> None:
    with pytest.raises(ConfigurationError, match="32 characters") as caught:
        load_settings({"JWT_SECRET": "Zb1pQ0v8yT3nX7mK2cW5"})
    assert "Zb1pQ" not in str(caught.value)
