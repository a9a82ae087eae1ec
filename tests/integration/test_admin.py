"""`/admin`: who gets in, what is shown, what can be done."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, running_gateway
from tests.wire import assert_valid

KEY = "the-operator-alone-knows"
ROUTES = (
    ("GET", "/admin/models"),
    ("POST", "/admin/models/vendor/model/load"),
    ("POST", "/admin/models/vendor/model/unload"),
    ("GET", "/admin/usage"),
)


@asynccontextmanager
async def admin(
    folder: Path, *, key: str = KEY, sent: str | None = f"Bearer {KEY}", **entry: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with one model, `vendor/model`, at a fake engine."""
    async with running_engine() as engine:
        model = {"id": "vendor/model", "replicas": [f"http://127.0.0.1:{engine.port}"]} | entry
        variables = {"ADMIN_API_KEY": key}
        headers = {"authorization": sent} if sent is not None else {}
        async with (
            running_gateway(folder, engine, variables=variables, models=[model]) as (_, url),
            httpx.AsyncClient(base_url=url, headers=headers, timeout=5) as http,
        ):
            yield http


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_of_the_operators_it_is_closed_and_says_how_to_open_it(
    stack: Stack, method: str, path: str
) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as http:
        for headers in ({}, {"authorization": f"Bearer {KEY}"}):
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 403
            assert_valid("ErrorResponse", answer.json())
            assert answer.json()["error"]["code"] == "admin_closed"
            assert "set ADMIN_API_KEY" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer wrong", KEY, f"Basic {KEY}", "Bearer \xfc"]
)
async def test_another_key_is_401_on_every_route(tmp_path: Path, sent: str | None) -> None:
    async with admin(tmp_path, sent=None) as http:
        headers = [] if sent is None else [(b"authorization", sent.encode("latin-1"))]
        for method, path in ROUTES:
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert_valid("ErrorResponse", answer.json())
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert KEY not in answer.text


async def test_models_and_their_engines_are_shown(tmp_path: Path) -> None:
    async with admin(tmp_path) as http:
        answer = await http.get("/admin/models")
        assert answer.status_code == 200
        (model,) = answer.json()["data"]
        assert model["id"] == "vendor/model"
        assert (model["state"], model["engine"]) == ("ready", "llama-server")
        assert (model["location"], model["is_in_process"]) == ("local", False)
        (replica,) = model["replicas"]
        assert replica.pop("url").startswith("http://127.0.0.1:")
        assert replica == {"is_usable": True, "state": "up", "in_flight": 0, "problem": None}


async def test_an_engine_that_is_away_is_shown_as_such(tmp_path: Path) -> None:
    async with admin(
        tmp_path, replicas=["http://127.0.0.1:1"], breaker={"failures": 1, "open_seconds": 20}
    ) as http:
        body = {"model": "vendor/model", "messages": [{"role": "user", "content": "hi"}]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 503
        ((replica,),) = [m["replicas"] for m in (await http.get("/admin/models")).json()["data"]]
        assert (replica["is_usable"], replica["state"]) == (False, "open")


async def test_a_model_behind_http_is_loaded_already_and_is_not_ours_to_unload(
    tmp_path: Path,
) -> None:
    async with admin(tmp_path) as http:
        answer = await http.post("/admin/models/vendor/model/load")
        assert (answer.status_code, answer.json()["state"]) == (200, "ready")
        answer = await http.post("/admin/models/vendor/model/unload")
        assert answer.status_code == 400
        assert "stop that" in answer.json()["error"]["message"]


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_an_unknown_model_is_404_with_the_known_names(tmp_path: Path, verb: str) -> None:
    async with admin(tmp_path) as http:
        answer = await http.post(f"/admin/models/nobody/{verb}")
        assert answer.status_code == 404
        assert "vendor/model" in answer.json()["error"]["message"]


class Parrot(InferenceHandler):
    """A handler of somebody's own."""

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return loaded_model.config.handler is not None

    async def stream_infer(
        self,
        loaded_model: LoadedModel,  # noqa: ARG002 - there is nothing in it
        request: InferenceRequest,
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        yield str((request.messages or [{}])[-1].get("content", ""))


async def test_a_model_of_this_process_is_unloaded_and_comes_back_when_it_is_asked(
    tmp_path: Path,
) -> None:
    parrot = f"{__name__}:Parrot"
    async with admin(tmp_path, engine="custom", handler=parrot, replicas=[]) as http:

        async def state() -> str:
            (model,) = (await http.get("/admin/models")).json()["data"]
            assert model["replicas"] == []
            return str(model["state"])

        assert (await http.post("/admin/models/vendor/model/load")).json()["state"] == "ready"
        gone = await http.post("/admin/models/vendor/model/unload")
        assert (gone.status_code, gone.json()["state"]) == (200, "unloaded")
        assert await state() == "unloaded"
        body = {"model": "vendor/model", "messages": [{"role": "user", "content": "hello"}]}
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        assert await state() == "ready"


async def test_the_openapi_document_says_that_a_key_is_wanted(tmp_path: Path) -> None:
    async with admin(tmp_path) as http:
        document = (await http.get("/openapi.json")).json()
        for method, path in ROUTES:
            operation = document["paths"][path.replace("vendor/model", "{model_id}")]
            assert operation[method.lower()]["security"] == [{"HTTPBearer": []}]
