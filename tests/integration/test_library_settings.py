"""From a stack file to answers, in one line and with the factory of the guide."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from api_server.errors import ConfigurationError
from api_server.inference import InferenceRequest
from api_server.library import InferenceFactory, _default, load_models, open_service
from tests.fake_engine import FakeEngine, running_engine
from tests.fake_handler import FakeHandler
from tests.local_stack import REPOSITORY


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine() as engine:
        yield engine


def stack_file(folder: Path, port: int) -> Path:
    """Two models at one engine; the answers of that in the cloud are longer."""
    url = f"http://127.0.0.1:{port}"
    local = {"id": "near", "replicas": [url], "defaults": {"tokens": 2}}
    cloud = {
        "id": "far",
        "engine": "openai",
        "location": "cloud",
        "replicas": [url],
        "defaults": {"tokens": 4},
    }
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump({"models": [local, cloud]}))
    return path


async def test_a_service_for_a_stack_file(engine: FakeEngine, tmp_path: Path) -> None:
    path = stack_file(tmp_path, engine.port)
    assert [model.id for model in load_models(path)] == ["near", "far"]
    async with open_service(str(path)) as service:
        response = await service.infer(InferenceRequest(model_id="near", prompt="hi"))
        assert response.generated_text == "xx"
    async with open_service(path, [FakeHandler()]) as service:
        assert [model.id for model in service.models.catalogue] == ["near", "far"]


async def test_a_stack_file_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        async with open_service(tmp_path / "nothing.yaml"):
            pass


async def talk(inference_type: str, message: str) -> str:
    inference = InferenceFactory.get_inference(inference_type, available_functions=None)
    stream = inference.process_conversation("thread", None, "run", "asst", message)
    return "".join([chunk async for chunk in stream])


async def test_the_guides_two_lines(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_CONFIG", str(stack_file(tmp_path, engine.port)))
    inference_factory = InferenceFactory()
    inference = inference_factory.get_inference(inference_type="local", available_functions=None)
    chunks = inference.process_conversation(
        thread_id="t1", message_id="m1", run_id="r1", assistant_id="a1", user_message="hi"
    )
    assert [chunk async for chunk in chunks] == ["x", "x"]
    assert await talk("cloud", "one") == "xxxx"
    assert await talk("local", "two") == "xx"
    messages = engine.bodies[-1]["messages"]
    assert [message["content"] for message in messages] == ["one", "xxxx", "two"]
    with pytest.raises(ValueError, match="'local' or 'cloud'"):
        InferenceFactory.get_inference("edge")


def test_each_event_loop_has_connections_of_its_own_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managers = []

    async def one_loop() -> str:
        async with running_engine() as engine:
            monkeypatch.setenv("STACK_CONFIG", str(stack_file(tmp_path, engine.port)))
            answer = await talk("local", "hi")
            managers.append(InferenceFactory.get_inference()._service().models)
            return answer

    before = len(list(Path("/dev/fd").iterdir()))
    assert [asyncio.run(one_loop()) for _ in range(5)] == ["xx"] * 5
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert len({id(manager) for manager in managers}) == 5
    assert all(manager.states()[0].state == "unloaded" for manager in managers)
    assert (_default()._services, _default()._keepers) == ({}, {})


async def test_a_loop_that_was_closed_without_ending_its_tasks_is_forgotten(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_CONFIG", str(stack_file(tmp_path, engine.port)))
    closed = asyncio.new_event_loop()
    closed.close()
    _default()._services[closed] = cast("Any", None)
    _default()._keepers[closed] = cast("Any", None)
    assert await talk("local", "hi") == "xx"
    assert closed not in _default()._services


def test_the_library_imports_no_web_framework_and_no_optional_library() -> None:
    code = (
        "import sys, api_server.inference, api_server.library\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(names & {'fastapi', 'starlette', 'uvicorn', 'torch', 'transformers', 'llama_cpp'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "set()"
