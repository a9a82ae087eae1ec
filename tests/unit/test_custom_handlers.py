"""Handlers that an entry names by their import path."""

from pathlib import Path

import pytest

from api_server.errors import ConfigurationError
from api_server.inference.handlers.custom import load_handler_class
from examples.custom_handler import ShoutHandler

BEGINNING = "from api_server.inference.handlers.base import InferenceHandler\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of this text on the Python path, under a name of its own."""
    name = f"handler_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(request.param)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_class_is_found_by_its_path() -> None:
    assert load_handler_class("examples.custom_handler:ShoutHandler") is ShoutHandler


@pytest.mark.parametrize("path", ["", "module", "a:b:c", "a.b:", ":C", "a..b:C", "a b:C", "1a:C"])
def test_what_is_no_import_path_says_how_to_write_one(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"package\.module:Class"):
        load_handler_class(path)


@pytest.mark.parametrize("path", ["nowhere:C", "examples.nowhere:C", "api_server.errors.deep:C"])
def test_a_module_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no module {path.split(':', maxsplit=1)[0]}"):
        load_handler_class(path)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
        ("raise ZeroDivisionError('broken')", "ZeroDivisionError: broken"),
        ("this is no Python", "SyntaxError"),
        ("x = 1", "has no class Own"),
        ("class Own: pass", "is no InferenceHandler"),
        (f"{BEGINNING}Own = InferenceHandler", "lacks can_handle, stream_infer"),
        (
            f"{BEGINNING}class Own(InferenceHandler):\n    def can_handle(self, m): return True",
            "lacks stream_infer",
        ),
    ],
    indirect=["module"],
)
def test_a_class_that_cannot_serve_says_why(module: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as raised:
        load_handler_class(f"{module}:Own")
    assert module in str(raised.value)
