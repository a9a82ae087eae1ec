"""Whatever is sent to it, the gateway neither fails nor hangs nor grows, and goes on serving.

A gateway in a process of its own in front of a healthy fake engine. What is sent is chance, but
the same chance in every run.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import requests
import schemathesis
import yaml
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from api_server.errors import is_conversation_path, is_job_path
from api_server.local.process import free_port
from tests.fake_engine.orders import PLAY_FIELDS
from tests.folded import read_events
from tests.local_stack import NEUTRAL, REPOSITORY, eventually
from tests.qdrant import QdrantServer
from tests.s3 import S3Server
from tests.stores import PostgresServer
from tests.wire import assert_valid

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MODELS = {CHAT: "fake", TEXT: "fake", EMBEDDINGS: "fake-embeddings"}
FAMILIES = ("/v1/assistants", "/v1/threads", "/v1/files", "/v1/uploads", "/v1/vector_stores")
HARDLY_MET = {
    *("POST /v1/files", "POST /v1/uploads", "POST /v1/uploads/{upload_id}/complete"),
    "POST /v1/threads/runs",
    "POST /v1/threads/{thread_id}/runs/{run_id}/cancel",
    "POST /v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs",
    "POST /v1/threads/{thread_id}/runs/{run_id}/resume",
    "POST /v1/vector_stores/{vector_store_id}/file_batches",
}
"""Routes whose bodies chance hardly ever gets right, or that a run which has ended refuses."""

EXAMPLES = 60
"""Of each route and each mode: what the document allows, and what it does not."""

EXAMPLES_OF_KEPT = 15
PAYLOADS = 3000
AT_ONCE = 40
PATIENCE_SECONDS = 5.0
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 1.0


@dataclass
class Gateway:
    """A running gateway, and what its process uses."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def defects_logged(self) -> set[str]:
        """Lines that speak of a defect, without what differs from one to the next."""
        # Not splitlines: a client's text may hold what Unicode calls the end of a line.
        lines = (json.loads(line) for line in self.log.read_text().split("\n")[:-1])
        defects = [line for line in lines if line["level"] == "error"]
        return {re.sub("[0-9]+|0x[0-9a-f]+", "#", line["message"])[:150] for line in defects}

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "the gateway ended"
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=3).status_code == 200
        except httpx.HTTPError:
            return False

    def assert_serves(self) -> None:
        """A chat, a text and a vector, as if nothing had been."""
        chat = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
        text = {"model": "fake", "prompt": "hi"}
        vector = {"model": "fake-embeddings", "input": "hi"}
        for path, body in ((CHAT, chat), (TEXT, text), (EMBEDDINGS, vector)):
            response = httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE_SECONDS)
            assert response.status_code == 200, response.text


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
) -> Iterator[Gateway]:
    qdrant_server.ask("DELETE", "/collections/stack-chunks")
    variables = {**s3_server.variables, **qdrant_server.variables}
    with postgres_server.database() as url:
        variables["POSTGRES_URL"] = url
        yield from gateway_with(tmp_path_factory.mktemp("fuzz"), variables)


def gateway_with(folder: Path, variables: Mapping[str, str]) -> Iterator[Gateway]:
    fake = subprocess.Popen(
        [sys.executable, "-m", "tests.fake_engine"], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    with ending(fake), (folder / "log").open("wb") as log:
        assert fake.stdout is not None
        engine = "http://" + fake.stdout.readline().decode().split()[-1]
        document = {
            "gateway": {"max_body_bytes": MAX_BODY_BYTES, "body_timeout_seconds": BODY_SECONDS},
            "models": [
                {"id": "fake", "replicas": [engine]},
                {"id": "fake-embeddings", "replicas": [engine], "serves": "embeddings"},
            ],
        }
        config = folder / "stack.yaml"
        config.write_text(yaml.safe_dump(document))
        port = free_port()
        environment = NEUTRAL | {"STACK_CONFIG": str(config), "PORT": str(port)}
        environment |= {"DATA_DIR": str(folder), **variables}
        process = subprocess.Popen(
            [sys.executable, "-m", "api_server", "serve"],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
        with ending(process):
            running = Gateway(process, port, folder / "log")
            eventually(running.is_ready, 20, "the gateway is ready")
            yield running


CHECKS: Any = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]


def operations(gateway: Gateway) -> dict[str, Any]:
    """Every operation of the gateway's own document, by its name."""
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json", wait_for_schema=5)
    results: Any = schema.get_all_operations()
    return {result.ok().label: result.ok() for result in results}


def test_every_route_stands_in_the_document(gateway: Gateway) -> None:
    assert set(operations(gateway)) >= {
        f"POST {CHAT}",
        f"POST {TEXT}",
        f"POST {EMBEDDINGS}",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
        "GET /health",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
    }


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_route_answers_as_its_document_says(gateway: Gateway, mode: GenerationMode) -> None:
    statuses: dict[str, set[int]] = {}
    with requests.Session() as session:
        for label, operation in operations(gateway).items():
            strategy = operation.as_strategy(generation_mode=mode)
            if mode is GenerationMode.NEGATIVE and label.split()[1] not in MODELS:
                continue  # nothing there that could be wrong
            seen = statuses.setdefault(label, set())
            kept = kept_at(gateway, label)
            began = time.monotonic()
            asking(strategy, gateway, session, seen, kept)
            print(f"{label}: {sorted(seen)} in {time.monotonic() - began:.1f} s")
    gateway.assert_serves()
    if mode is GenerationMode.POSITIVE:
        for label, seen in statuses.items():
            is_kept = label.split()[1].startswith(FAMILIES)
            assert not is_kept or label in HARDLY_MET or 200 in seen, (label, seen)
    for path in MODELS:
        wanted = {200} if mode is GenerationMode.POSITIVE else {400}
        assert wanted <= statuses[f"POST {path}"], "the fuzz went deep enough"


def kept_at(gateway: Gateway, label: str) -> dict[str, str]:
    """One of everything that a route's path names, made anew, so that something is there."""
    method, path = label.split()
    wanted = re.findall(r"\{(\w+)\}", path)
    if not path.startswith(FAMILIES) or (not wanted and method != "POST"):
        return {}
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_SECONDS) as http:
        return _kept(http, needs_upload="upload_id" in wanted)


def _kept(http: httpx.Client, *, needs_upload: bool) -> dict[str, str]:
    """A run is done already where the next one is wanted."""

    def made(path: str, body: Any = None, **options: Any) -> str:
        response = http.post(path, json=body, **options)
        assert response.status_code == 200, response.text
        id_: str = response.json()["id"]
        return id_

    form = {"files": {"file": ("a.txt", b"some words")}, "data": {"purpose": "assistants"}}
    ids = {"file_id": made("/v1/files", **form)}
    if needs_upload:
        new = {"filename": "a", "purpose": "assistants", "bytes": 3, "mime_type": "text/plain"}
        ids["upload_id"] = made("/v1/uploads", new)
        return ids
    ids["vector_store_id"] = made("/v1/vector_stores", {})
    store = f"/v1/vector_stores/{ids['vector_store_id']}"
    ids["batch_id"] = made(f"{store}/file_batches", {"file_ids": [ids["file_id"]]})
    ids["assistant_id"] = made("/v1/assistants", {"model": "fake"})
    ids["thread_id"] = made("/v1/threads", {})
    thread = f"/v1/threads/{ids['thread_id']}"
    ids["message_id"] = made(f"{thread}/messages", {"role": "user", "content": "hi"})
    ids["run_id"] = made(f"{thread}/runs", {"assistant_id": ids["assistant_id"]})
    run = f"{thread}/runs/{ids['run_id']}"
    eventually(lambda: http.get(run).json()["status"] == "completed", 10, "the run is done")
    file = f"{store}/files/{ids['file_id']}"
    eventually(lambda: http.get(file).json()["status"] == "completed", 10, "the file is in")
    ids["step_id"] = http.get(f"{run}/steps").json()["data"][0]["id"]
    return ids


def asking(
    strategy: Any,
    gateway: Gateway,
    session: requests.Session,
    seen: set[int],
    kept: Mapping[str, str],
) -> None:
    """Ask with examples of a strategy, the same in every run; `seen` gets the statuses."""

    @hypothesis.settings(
        max_examples=EXAMPLES_OF_KEPT if kept else EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=strategy)
    def run(case: Any) -> None:
        seen.add(ask(gateway, session, case, kept))

    run()


def ask(gateway: Gateway, session: requests.Session, case: Any, kept: Mapping[str, str]) -> int:
    """Send one made-up request; its answer must conform. Most name what there is."""
    if len(str(case.body) + str(case.query)) % 4:
        for name in set(case.path_parameters or ()) & set(kept):
            case.path_parameters[name] = kept[name]
        name_what_there_is(case.body, kept)
    if isinstance(case.body, dict):
        for name in PLAY_FIELDS:  # orders to the fake engine
            case.body.pop(name, None)
    if isinstance(case.body, dict) and "model" in case.body and len(str(case.body)) % 4:
        case.body["model"] = MODELS.get(case.path, "fake")
    response = case.call(base_url=gateway.url, session=session, timeout=PATIENCE_SECONDS)
    is_stream = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    if is_stream:  # the document describes it as one text, the check wants each event described
        if case.path.startswith("/v1/threads"):  # events of other shapes than a chat's
            assert response.text.endswith("data: [DONE]\n\n")
        elif case.path.startswith("/api/"):
            assert response.text.endswith(("data: [DONE]\n\n", "data: [ERROR]\n\n"))
        else:
            assert read_events(response.text)
    case.validate_response(response, checks=CHECKS[:-1] if is_stream else CHECKS)
    assert response.elapsed < PATIENCE_SECONDS
    is_openais = not is_job_path(case.path) and not is_conversation_path(case.path)
    if response.status_code >= 400 and is_openais:
        assert_valid("ErrorResponse", response.json())
    status: int = response.status_code
    return status


def name_what_there_is(body: Any, kept: Mapping[str, str]) -> None:
    """In the body's place, wherever it names anything of what is kept."""
    if isinstance(body, list):
        for each in body:
            name_what_there_is(each, kept)
    if not isinstance(body, dict):
        return
    for name, value in body.items():
        if name in kept and isinstance(value, str):
            body[name] = kept[name]
        elif name in ("file_ids", "vector_store_ids") and isinstance(value, list):
            one = kept.get(name.removesuffix("s"))
            body[name] = [one if isinstance(each, str) and one else each for each in value]
        else:
            name_what_there_is(value, kept)


def http(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """A request as bytes, with the headers given and no others."""
    head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "host: x", *headers))
    return head.encode("latin-1") + b"\r\n" + body


def sized(path: str, body: bytes) -> bytes:
    return http(path, body, "content-type: application/json", f"content-length: {len(body)}")


def good(tokens: int = 3, *, stream: bool = False) -> bytes:
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps(chat | {"stream": stream, "tokens": tokens}).encode()


SEEDS = (
    sized(CHAT, good()),
    sized(CHAT, good(stream=True)),
    sized(TEXT, json.dumps({"model": "fake", "prompt": ["a", "b"]}).encode()),
    sized(EMBEDDINGS, json.dumps({"model": "fake-embeddings", "input": ["a", [1]]}).encode()),
    http("/v1/models", b"", method="GET"),
    http("/v1/models/fake", b"", method="GET"),
    http("/health", b"", method="GET"),
    http(CHAT, b'5\r\n{"mod\r\n0\r\n\r\n', "transfer-encoding: chunked"),
    http(CHAT, b"%x\r\n%b\r\n0\r\n\r\n" % (len(good()), good()), "transfer-encoding: chunked"),
    http(CHAT, good(), "expect: 100-continue", f"content-length: {len(good())}"),
    http("/health", b"", "connection: upgrade", "upgrade: h2c", method="GET"),
    http("/health", b"", "connection: upgrade", "upgrade: websocket", method="GET"),
)
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"%00", b"%ff%fe", b"\xff\xfe", b"\xed\xa0\x80",
    b"HTTP/1.1", b"HTTP/9.9", b"HTTP/1.0", b"GET", b"CONNECT", b"/../", b"//", b"?", b"#", b"\t",
    b"content-length: 5\r\n", b"content-length: -1\r\n", b"content-length: 99999999999999999\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: identity, chunked\r\n",
    b"transfer-encoding:\x0bchunked\r\n", b"connection: close\r\n", b"ffffffffffffffff\r\n",
    b"0\r\n\r\n", b"x" * 9000, b"{" * 500, b"[" * 5000, b'"\\ud800"', b"1e999", b"null", b"-0",
)  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    """A request that was well formed once, or never was."""
    kind = chance.random()
    if kind < 0.1:
        return chance.randbytes(chance.randrange(1, 3000))
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.choice((1, 1, 1, 2, 5)))))
    for _ in range(chance.choice((0, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(data))
        end = at + chance.choice((0, 1, 3, 20))
        data[at:end] = chance.choice((chance.choice(TOKENS), chance.randbytes(3), b""))
        if not data:
            return b"\r\n"
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


async def talk(port: int, payload: bytes, *, pieces: int = 1, leaves: bool = False) -> bytes:
    """Send bytes, read what comes until nothing does; the server must close soon after we do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        size = len(payload) // pieces + 1
        for start in range(0, len(payload), size):
            writer.write(payload[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        if leaves:
            return b""
        with contextlib.suppress(TimeoutError):
            while data := await asyncio.wait_for(reader.read(65536), 0.15):
                received += data
        if not reader.at_eof():
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_SECONDS):
            received += await reader.read(-1)
    except ConnectionError:
        pass  # it hung up on us, which is an answer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return received


def statuses_of(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


async def bombard(gateway: Gateway, seed: int) -> list[int]:
    """Send `PAYLOADS` odd things, some at the same time; returns all statuses."""
    chance = random.Random(seed)
    places = asyncio.Semaphore(AT_ONCE)
    statuses: list[int] = []

    async def one(payload: bytes, pieces: int, *, leaves: bool) -> None:
        async with places:
            received = await talk(gateway.port, payload, pieces=pieces, leaves=leaves)
            found = statuses_of(received)
            assert not [status for status in found if status >= 500], (payload, received)
            assert received == b"" or received.startswith(b"HTTP/1.1 "), (payload, received)
            statuses.extend(found)

    async with asyncio.TaskGroup() as group:
        for _ in range(PAYLOADS):
            payload, pieces = mutated(chance), chance.choice((1, 1, 2, 7))
            group.create_task(one(payload, pieces, leaves=chance.random() < 0.1))
    return statuses


async def test_odd_bytes_neither_break_nor_hang_nor_grow_it(gateway: Gateway) -> None:
    await bombard(gateway, seed=1)  # the first time it may take what it needs
    gateway.assert_serves()
    resident, files = gateway.resident_mib(), gateway.open_files()
    statuses = await bombard(gateway, seed=2)
    gateway.assert_serves()
    grown = gateway.resident_mib() - resident
    print(f"\n{ {s: statuses.count(s) for s in set(statuses)} }, grown by {grown:.2f} MiB", end="")
    assert {200, 400, 404} <= set(statuses), "some got through, some did not"
    assert grown < 4
    eventually(lambda: gateway.open_files() <= files + 2, 5, "all connections are closed")


async def test_odd_bytes_are_no_defects_in_the_log(gateway: Gateway) -> None:
    await bombard(gateway, seed=3)
    gateway.assert_serves()
    assert gateway.defects_logged() == set()


HIDDEN = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
SMUGGLING = {
    "both lengths": http(
        CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "content-length: 4", "transfer-encoding: chunked"
    ),
    "both lengths, other order": http(
        CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding: chunked", "content-length: 4"
    ),
    "two lengths": http(CHAT, b"{}" + HIDDEN.encode(), "content-length: 2", "content-length: 44"),
    "a list of lengths": http(CHAT, b"{}" + HIDDEN.encode(), "content-length: 2, 44"),
    "a signed length": http(CHAT, b"{}" + HIDDEN.encode(), "content-length: +2"),
    "a hexadecimal length": http(CHAT, b"{}" + HIDDEN.encode(), "content-length: 0x2"),
    "space before the colon": http(CHAT, b"{}" + HIDDEN.encode(), "content-length : 2"),
    "folded": http(CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding:\r\n chunked"),
    "chunked twice": http(
        CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding: chunked, chunked"
    ),
    "chunked, then more": http(
        CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding: chunked, identity"
    ),
    "an unknown coding": http(CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding: xchunked"),
    "a vertical tab": http(
        CHAT, b"0\r\n\r\n" + HIDDEN.encode(), "transfer-encoding:\x0bchunked", "content-length: 5"
    ),
    "a size beyond all bounds": http(
        CHAT, b"fffffffffffffffff\r\n" + HIDDEN.encode(), "transfer-encoding: chunked"
    ),
    "a negative size": http(CHAT, b"-1\r\n\r\n" + HIDDEN.encode(), "transfer-encoding: chunked"),
    "bare line feeds": b"POST /v1/models HTTP/1.1\ncontent-length: 0\n\n" + HIDDEN.encode(),
    "a null in a header": http("/health", HIDDEN.encode(), "x-a: \0b", method="GET"),
    "a line feed in a header": http("/health", b"", "x-a: b\nc: d", method="GET"),
}
MAY_BE_TWO = {"bare line feeds", "a line feed in a header"}
"""Old servers take these line ends, and nothing is hidden by them."""


@pytest.mark.parametrize("name", SMUGGLING)
async def test_requests_cannot_be_smuggled(gateway: Gateway, name: str) -> None:
    """One request or none is seen, never the one that is hidden in its body."""
    received = await talk(gateway.port, SMUGGLING[name])
    statuses = statuses_of(received)
    assert all(400 <= status < 500 for status in statuses) or name in MAY_BE_TWO
    assert len(statuses) <= 1 or name in MAY_BE_TWO
    assert b'"object":"list"' not in received.replace(b" ", b"") or name in MAY_BE_TWO
    gateway.assert_serves()


async def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway) -> None:
    paths = ["/v1/models/fake", "/v1/models/none", "/health/live", "/v1/nothing"] * 10
    payload = b"".join(http(path, b"", method="GET") for path in paths)
    payload += sized(CHAT, good(stream=True)) + sized(CHAT, b"{}") + sized(CHAT, good())
    received = await talk(gateway.port, payload)
    assert statuses_of(received) == [200, 404, 200, 404] * 10 + [200, 400, 200]


async def test_a_bad_request_does_not_take_the_place_of_those_before_it(gateway: Gateway) -> None:
    good_ones = http("/health/live", b"", method="GET") * 3
    statuses = statuses_of(await talk(gateway.port, good_ones + b"no request\r\n\r\n"))
    assert statuses[:3] == [200] * len(statuses[:3])
    assert statuses[3:] in ([], [400])


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        pytest.param(http("/" + "x" * 100_000, b"", method="GET"), None, id="path"),
        pytest.param(http("/health", b"", "x: " + "y" * 1_000_000, method="GET"), None, id="one"),
        pytest.param(
            http("/health", b"", *(f"x{n}: y" for n in range(50_000)), method="GET"),
            None,
            id="many",
        ),
        pytest.param(
            http(CHAT, b"", f"content-length: {MAX_BODY_BYTES + 1}"), 413, id="announced body"
        ),
        pytest.param(
            http(CHAT, (b"1000\r\n" + b" " * 4096 + b"\r\n") * 20, "transfer-encoding: chunked"),
            413,
            id="body without an end",
        ),
    ],
)
async def test_what_is_too_large_is_refused(
    gateway: Gateway, payload: bytes, status: int | None
) -> None:
    resident = gateway.resident_mib()
    received = await talk(gateway.port, payload)
    statuses = statuses_of(received)
    assert len(statuses) <= 1
    assert all(400 <= found < 500 for found in statuses)
    assert status is None or statuses == [status]
    assert gateway.resident_mib() - resident < 20
    gateway.assert_serves()


async def test_half_a_body_and_silence_is_408_in_time(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(http(CHAT, good()[:20], f"content-length: {len(good())}"))
    begun = time.monotonic()
    async with asyncio.timeout(BODY_SECONDS + 3):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun >= BODY_SECONDS * 0.9
    writer.close()
    await writer.wait_closed()
