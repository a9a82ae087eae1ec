"""Tokens through a gateway, the development key, web pages, and what attackers send."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.access import Guarded, guarded_gateway, make_app, until
from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, raw_connection, running_gateway

SECRET = "Zb1pQ0v8yT3nX7mK2cW5Zb1pQ0v8yT3nX7mK2cW5"
DEVELOPMENT_KEY = "sk-dev-Zb1pQ0v8yT3nX7mK2cW5"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ORIGIN = "https://chat.example.com"


@contextmanager
def key_server(delay_seconds: float = 0.0) -> Iterator[str]:
    """An identity provider's list of keys; its URL."""
    key = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True) | {"kid": "one"}
    body = json.dumps({"keys": [key]}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_seconds)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def token(**claims: Any) -> str:
    said = {"exp": int(time.time()) + 60, "sub": "ada", "app": "shop"} | claims
    return jwt.encode(said, KEY, algorithm="RS256", headers={"kid": "one"})


async def test_a_token_signed_with_a_published_key_opens(
    tmp_path: Path, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await make_app(postgres_url)
    caplog.set_level(logging.INFO)
    with key_server() as url:
        variables = {"JWT_JWKS_URL": url, "JWT_SECRET": SECRET}
        async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
            assert (await gateway.chat(token())).status_code == 200
            own = jwt.encode({"exp": int(time.time()) + 60, "app": "shop"}, SECRET)
            assert (await gateway.chat(own)).status_code == 200
            for forged in (token(exp=1), token(app="none"), token()[:-6] + "AAAAAA", "eyJ.a.b"):
                answer = await gateway.chat(forged)
                assert answer.status_code == 401
                assert answer.json()["error"]["message"].startswith("This token is not accepted")
            await gateway.admin("DELETE", "/shop")

            async def is_out() -> bool:
                return (await gateway.chat(token())).status_code == 401

            await until(is_out, 3)
    assert token() not in "".join(str(vars(record)) for record in caplog.records)


async def test_a_key_server_that_is_away_is_no_401_and_holds_nobody_up(
    tmp_path: Path, postgres_url: str
) -> None:
    issued = await make_app(postgres_url)
    variables = {"JWT_JWKS_URL": "http://127.0.0.1:1/jwks.json"}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        assert (await gateway.chat(token())).status_code == 503
        assert (await gateway.chat(issued.key)).status_code == 200
    with key_server(delay_seconds=2) as url:
        variables = {"JWT_JWKS_URL": url}
        async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
            waiting = asyncio.create_task(gateway.chat(token()))
            began = time.monotonic()
            assert (await gateway.chat(issued.key)).status_code == 200
            assert time.monotonic() - began < 1
            assert (await waiting).status_code == 200


@pytest.mark.parametrize(("environment", "status"), [("development", 200), ("production", 401)])
async def test_the_development_key_counts_in_development_alone(
    tmp_path: Path, postgres_url: str, environment: str, status: int
) -> None:
    variables = {"ENVIRONMENT": environment, "DEVELOPMENT_KEY": DEVELOPMENT_KEY}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        assert (await gateway.chat(DEVELOPMENT_KEY)).status_code == status
        assert (await gateway.chat("sk-dev-another-key-of-nobody")).status_code == 401
        assert (await gateway.admin("GET", "")).json()["data"] == []


async def test_end_users_of_the_development_key_have_conversations_of_their_own(
    tmp_path: Path, postgres_url: str
) -> None:
    """As on a laptop, with `make local`."""

    def shown(user: str, **claims: object) -> dict[str, str]:
        said = {"exp": int(time.time()) + 60, "sub": user, **claims}
        return {"authorization": f"Bearer {jwt.encode(said, SECRET)}"}

    hello = {"messages": [{"role": "user", "content": "hi"}]}
    variables = {
        "ENVIRONMENT": "development",
        "DEVELOPMENT_KEY": DEVELOPMENT_KEY,
        "JWT_SECRET": SECRET,
        "JWT_APP": "development",
    }
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        ask = gateway.http
        answer = await ask.post("/api/messages/process", json=hello, headers=shown("ada"))
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text
        thread = json.loads(answer.text.split("\n")[0].removeprefix("data: "))["thread_id"]
        path = f"/v1/threads/{thread}/messages"
        named = shown("ada", app="app_development")
        assert len((await ask.get(path, headers=named)).json()["data"]) == 2
        assert (await ask.get(path, headers=shown("bob"))).status_code == 404
        own = {"authorization": f"Bearer {DEVELOPMENT_KEY}"}
        assert (await ask.get(path, headers=own)).status_code == 200
        assert (await ask.get(path, headers=shown("ada", app="anyone"))).status_code == 401
    async with guarded_gateway(
        tmp_path, postgres_url, variables | {"ENVIRONMENT": "production"}
    ) as gateway:
        answer = await gateway.http.post("/api/messages/process", json=hello, headers=shown("ada"))
        assert answer.status_code == 401


async def test_the_development_key_works_without_a_database(tmp_path: Path) -> None:
    variables = {"AUTH": "on", "DEVELOPMENT_KEY": DEVELOPMENT_KEY}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, variables=variables) as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        gateway = Guarded(url, http)
        assert (await gateway.chat(DEVELOPMENT_KEY)).status_code == 200
        assert (await gateway.chat("sk-wrong")).status_code == 503
        assert (await gateway.chat(None)).status_code == 401


@pytest.fixture
async def with_cors(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    section = {"body_timeout_seconds": 0.5, "cors": {"origins": [ORIGIN]}}
    async with guarded_gateway(tmp_path, postgres_url, gateway=section) as gateway:
        yield gateway


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }


async def test_a_page_of_a_configured_origin_may_call(
    with_cors: Guarded, postgres_url: str
) -> None:
    asked = await with_cors.http.options("/v1/chat/completions", headers=preflight(ORIGIN))
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert asked.headers["access-control-max-age"] == "600"

    refused = await with_cors.http.post("/v1/chat/completions", headers={"origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page can read the error"

    issued = await make_app(postgres_url)
    await until(lambda: _opens(with_cors, issued.key), 3)
    headers = {"origin": ORIGIN, "authorization": f"Bearer {issued.key}"}
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    path = "/v1/chat/completions"
    async with with_cors.http.stream("POST", path, json=body, headers=headers) as stream:
        assert stream.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in stream.headers["access-control-expose-headers"]
        text = (await stream.aread()).decode()
    assert text.endswith("data: [DONE]\n\n")


async def _opens(gateway: Guarded, key: str | None) -> bool:
    return (await gateway.chat(key)).status_code == 200


async def test_a_page_of_another_origin_may_not(with_cors: Guarded, stack: Stack) -> None:
    for origin in ("https://evil.example.com", f"{ORIGIN}.evil.com", "null"):
        asked = await with_cors.http.options("/v1/chat/completions", headers=preflight(origin))
        assert asked.status_code == 400
        assert "access-control-allow-origin" not in asked.headers
    async with httpx.AsyncClient(base_url=stack.url) as http:
        answer = await http.get("/v1/models", headers={"origin": ORIGIN})
        assert "access-control-allow-origin" not in answer.headers, "without origins, for nobody"


async def test_answers_tell_browsers_to_be_careful(with_cors: Guarded) -> None:
    for path in ("/health", "/v1/models", "/none", "/admin/apps"):
        headers = (await with_cors.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "content-security-policy" not in (await with_cors.http.get("/docs")).headers
    assert (await with_cors.admin("GET", "")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer sk-a\r\nX-Injected: yes",
        b"Authorization: Bearer \x00\x01\x02",
        b"Authorization: Bearer " + b"a" * 40_000,
        b"Authorization: Bearer \xff\xfe\xc3\x28",
        b'Authorization: Bearer {"level":"error","message":"forged"}',
        b"Authorization: Bearer sk-a\r\nAuthorization: Bearer sk-b",
        b"Authorization: Bearer ' or '1'='1",
        b"Authorization: Bearer eyJhbGciOiJub25lIn0.e30.",
        b"X-API-Key: sk-a",
        b"Proxy-Authorization: Bearer sk-a",
    ],
)
async def test_what_attackers_put_into_headers_ends_in_401(
    tmp_path: Path, postgres_url: str, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        guarded_gateway(tmp_path, postgres_url, {"JWT_SECRET": SECRET}) as gateway,
        raw_connection(gateway.url) as (reader, writer),
    ):
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))
        assert b"injected" not in head.lower()
    assert "forged" not in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/", "//v1/models", "/v1/../v1/models", "/admin/../v1/models",
     "/health/../v1/models", "/v1/models?x=/health", "/V1/MODELS", "/v1%2fmodels",
     "/health%2f..%2fv1/models",
     "/requests/../v1/models", "/docs/x", "/metrics/", "/adminx", "/ai_requestx",
     "/requests/", "/admin/apps/"],
)  # fmt: skip
async def test_no_spelling_of_a_path_gets_past_the_key(
    tmp_path: Path, postgres_url: str, path: str
) -> None:
    async with (
        guarded_gateway(tmp_path, postgres_url) as gateway,
        raw_connection(gateway.url) as (reader, writer),
    ):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 404"))
        assert b'"object":"list"' not in answer
