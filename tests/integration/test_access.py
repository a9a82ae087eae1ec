"""Who gets in: keys, their changes, what an app may do, `/admin/apps`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import httpx
import pytest

from tests.access import ADMIN, Guarded, guarded_gateway, has_status, make_app, managed_apps, until
from tests.wire import assert_valid


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "bearer  wrong",
        "sk-wrong",
        "Basic sk-wrong",
        "Bearer \xfc",
    ],
)
async def test_without_a_right_key_it_is_401(guarded: Guarded, header: str | None) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/x")):
        answer = await guarded.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert_valid("ErrorResponse", answer.json())
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_new_key_opens_and_a_revoked_one_closes_within_seconds(
    guarded: Guarded, postgres_url: str
) -> None:
    issued = await make_app(postgres_url)
    await until(lambda: has_status(guarded, issued.key, 200), 3)
    async with managed_apps(postgres_url) as apps:
        await apps.revoke("shop")
    await until(lambda: has_status(guarded, issued.key, 401), 3)


async def test_public_paths_need_no_key(guarded: Guarded) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert (await guarded.http.get(path)).status_code == 200, path


async def test_the_schema_version_and_the_dependencies_are_told(guarded: Guarded) -> None:
    ready = (await guarded.http.get("/health/ready")).json()
    assert ready["schema_version"] >= 1
    assert ready["dependencies"] == {"postgres": "up"}
    assert (await guarded.http.get("/health")).json()["apps_age_seconds"] < 5


async def test_an_app_code_is_no_key(guarded: Guarded, postgres_url: str) -> None:
    issued = await make_app(postgres_url)
    await until(lambda: has_status(guarded, issued.key, 200), 3)
    assert await has_status(guarded, issued.app_code, 401)


async def test_a_rotated_key_stays_valid_for_the_grace_and_no_longer(
    guarded: Guarded, postgres_url: str
) -> None:
    first = await make_app(postgres_url)
    async with managed_apps(postgres_url) as apps:
        second = await apps.rotate("shop", "key", 1.5)
        await until(lambda: has_status(guarded, second.key, 200), 3)
        assert await has_status(guarded, first.key, 200)
        await until(lambda: has_status(guarded, first.key, 401), 3)
        third = await apps.rotate("shop", "key", 0)
        await until(lambda: has_status(guarded, third.key, 200), 3)
        assert await has_status(guarded, second.key, 401)


async def test_models_that_an_app_may_not_use_are_not_shown(
    guarded: Guarded, postgres_url: str
) -> None:
    free = await make_app(postgres_url, "free")
    bound = await make_app(postgres_url, "bound", models=["other"])
    await until(lambda: has_status(guarded, free.key, 200), 3)

    async def models(key: str | None, path: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return await guarded.http.get(f"/v1/models{path}", headers=headers)

    assert [each["id"] for each in (await models(free.key)).json()["data"]] == ["fake"]
    await until(lambda: _is(models(bound.key), 200), 3)
    assert (await models(bound.key)).json()["data"] == []
    refused = await models(bound.key, "/fake")
    assert refused.status_code == 403
    assert "may use: other" in refused.json()["error"]["message"]


async def _is(answer: Awaitable[httpx.Response], status: int) -> bool:
    return (await answer).status_code == status


async def test_the_life_of_an_app_through_admin(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api_server.audit")
    body = {"name": "Flash Cards", "policy": {"rate_limits": ["100/hour"], "models": ["fake"]}}
    created = await guarded.admin("POST", "", json=body)
    assert created.status_code == 201
    app = created.json()
    assert app["key"].startswith("sk-")
    assert app["policy"]["rate_limits"] == ["100/hour"]
    assert created.headers["cache-control"] == "no-store"
    await until(lambda: has_status(guarded, app["key"], 200), 3)

    shown = (await guarded.admin("GET", "/Flash Cards")).json()
    listed = (await guarded.admin("GET", "")).json()["data"]
    assert listed == [shown]
    assert "key" not in shown
    hint = next(each["hint"] for each in shown["credentials"] if each["kind"] == "key")
    assert hint == f"{app['key'][:6]}...{app['key'][-4:]}"

    changed = await guarded.admin("PATCH", f"/{app['id']}", json={"tokens_per_minute": 9000})
    assert changed.json()["policy"]["tokens_per_minute"] == 9000
    assert changed.json()["policy"]["rate_limits"] == ["100/hour"]
    changed = await guarded.admin("PATCH", f"/{app['id']}", json={"rate_limits": None})
    assert changed.json()["policy"]["rate_limits"] == []

    rotated = (await guarded.admin("POST", f"/{app['id']}/rotate")).json()
    await until(lambda: has_status(guarded, rotated["key"], 200), 3)
    assert await has_status(guarded, app["key"], 401)
    again = (await guarded.admin("POST", f"/{app['id']}/rotate", json={"grace_seconds": 60})).json()
    await until(lambda: has_status(guarded, again["key"], 200), 3)
    rotated_hint = f"{rotated['key'][:6]}...{rotated['key'][-4:]}"
    await guarded.admin("DELETE", f"/{app['id']}", params={"key": rotated_hint})
    await until(lambda: has_status(guarded, rotated["key"], 401), 3)
    assert await has_status(guarded, again["key"], 200)
    gone = await guarded.admin("DELETE", f"/{app['id']}")
    assert gone.json()["revoked_at"] is not None
    await until(lambda: has_status(guarded, again["key"], 401), 3)

    deeds = [record.getMessage() for record in caplog.records if record.name == "api_server.audit"]
    assert len(deeds) == 7
    said = "".join(str(vars(record)) for record in caplog.records)
    for secret in (app["key"], app["app_code"], rotated["key"], again["key"]):
        assert secret not in said


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "name: field required"),
        (b'{"name": "a", "polcy": {}}', "Did you mean 'policy'?"),
        (b'{"name": "a", "policy": {"rate_limit": []}}', "Did you mean 'rate_limits'?"),
        (b'{"name": "a", "policy": {"rate_limits": ["1/eon"]}}', "no rate such as 100/hour"),
        (b'{"name": "a", "policy": {"limits_by_model": {"m": {"tokens": 1}}}}', "tokens_per"),
        (b'{"name": "development"}', "for itself"),
        (b'{"name": "app_development"}', "for itself"),
        (b'{"name": "a\\nb"}', "name: string should match"),
        (b'{"name": "x\'; drop table apps; --"}', "name: string should match"),
        (b'{"name": "' + b"a" * 65 + b'"}', "name: string should match"),
        (b'{"name": "a\\u0000"}', "name: string should match"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
async def test_a_wrong_body_is_a_clear_400(guarded: Guarded, body: bytes, fragment: str) -> None:
    answer = await guarded.admin("POST", "", content=body)
    assert answer.status_code == 400
    assert_valid("ErrorResponse", answer.json())
    assert fragment in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "policy",
    [
        rb'{"models": ["a\u0000"]}',
        rb'{"models": ["\ud800"]}',
        rb'{"limits_by_model": {"\u0000": {}}}',
        rb'{"request_types": {"explain": {"prompt": "\u0000"}}}',
        rb'{"request_types": {"explain": {"system": "\u0000"}}}',
        rb'{"request_types": {"explain": {"model": "\udfff"}}}',
    ],
)
async def test_a_policy_that_cannot_be_kept_is_a_400(
    guarded: Guarded, postgres_url: str, policy: bytes
) -> None:
    await make_app(postgres_url, "kept")
    for method, path, body in (
        ("POST", "", b'{"name": "new", "policy": ' + policy + b"}"),
        ("PATCH", "/kept", policy),
    ):
        answer = await guarded.admin(method, path, content=body)
        assert answer.status_code == 400, answer.text
    assert (await guarded.admin("DELETE", "/kept", params={"key": "\0"})).status_code == 404


async def test_a_name_is_taken_once_and_what_is_not_there_is_404(guarded: Guarded) -> None:
    assert (await guarded.admin("POST", "", json={"name": "a"})).status_code == 201
    assert (await guarded.admin("POST", "", json={"name": "a"})).status_code == 409
    for path in ("/b", "/app_development", "/a%00", "/%27%20or%201%3D1", "/anyone"):
        assert (await guarded.admin("GET", path)).status_code == 404, path
        assert (await guarded.admin("DELETE", path)).status_code == 404, path
        assert (await guarded.admin("POST", f"{path}/rotate")).status_code == 404, path
    assert (await guarded.admin("DELETE", "/a", params={"key": "sk-x"})).status_code == 404
    assert (await guarded.admin("POST", "", content=b"x" * 2_000_000)).status_code == 413


async def test_an_apps_key_does_not_open_admin(guarded: Guarded, postgres_url: str) -> None:
    issued = await make_app(postgres_url)
    await until(lambda: has_status(guarded, issued.key, 200), 3)
    headers = {"authorization": f"Bearer {issued.key}"}
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/shop"), ("DELETE", "/shop")):
        answer = await guarded.http.request(method, f"/admin/apps{path}", headers=headers)
        assert answer.status_code == 401
    assert await has_status(guarded, ADMIN, 401)


async def test_a_log_line_names_the_app_and_never_the_key(
    guarded: Guarded, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    issued = await make_app(postgres_url)
    await until(lambda: has_status(guarded, issued.key, 200), 3)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    await guarded.chat(issued.key)
    await guarded.chat("sk-a-wrong-key-that-is-secret-as-well")
    said = "".join(str(vars(record)) for record in caplog.records)
    assert issued.key is not None
    assert "'app': 'shop'" in said
    assert issued.key not in said
    assert "wrong-key" not in said


async def test_fifty_requests_at_once_with_other_keys_get_their_own_answers(
    guarded: Guarded, postgres_url: str
) -> None:
    issued = await make_app(postgres_url)
    await until(lambda: has_status(guarded, issued.key, 200), 3)
    keys = [issued.key if number % 2 else f"sk-{number}" for number in range(50)]
    answers = await asyncio.gather(*(guarded.chat(key) for key in keys))
    assert [answer.status_code for answer in answers] == [401, 200] * 25
