"""Answers are the same however the network cuts the engine's bytes into pieces.

A gateway in front of a proxy that cuts, in front of the engine of the session's stack.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from api_server.local.process import free_port
from tests.e2e.test_parameters import CHAT, CHATS, TEXT, TEXTS, assert_valid_events
from tests.folded import Json, assert_equal, from_plain, from_stream, read_events
from tests.local_stack import NEUTRAL, REPOSITORY, LocalStack, eventually

REQUESTS = [
    *(
        (CHAT, CHATS[name])
        for name in ("nothing else", "n", "top_logprobs", "tools", "json_schema")
    ),
    (CHAT, {"messages": [{"role": "user", "content": "Say: äöü 漢字 🙂"}], "max_tokens": 30}),
    *((TEXT, TEXTS[name]) for name in ("logprobs", "n of several prompts", "stop, a list")),
]


class Cutter:
    """Passes bytes on, towards the client in pieces of one byte to a few, with pauses."""

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port
        self._chance = random.Random(20261121)
        self.longest_piece = 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, engine = await asyncio.open_connection("127.0.0.1", self._engine_port)
        ways = (
            self._pass_on(reader, engine, whole=True),
            self._pass_on(upstream, writer, whole=False),
        )
        await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, whole: bool
    ) -> None:
        while data := await reader.read(65536):
            while data:
                size = len(data) if whole else self._chance.randint(1, self.longest_piece)
                writer.write(data[:size])
                await writer.drain()
                await asyncio.sleep(0)
                data = data[size:]
        writer.close()  # so that a departed client is noticed on the other side


@contextlib.contextmanager
def cutting(engine_port: int) -> Iterator[tuple[Cutter, int]]:
    """A running proxy, in a thread with a loop of its own, and its port."""
    cutter = Cutter(engine_port)
    started: concurrent.futures.Future[tuple[int, Callable[[], object]]]
    started = concurrent.futures.Future()

    async def run() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(cutter.serve, "127.0.0.1", 0) as server:
            port: int = server.sockets[0].getsockname()[1]
            started.set_result((port, partial(loop.call_soon_threadsafe, over.set)))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, stop = started.result(timeout=10)
    try:
        yield cutter, port
    finally:
        stop()
        thread.join()


@pytest.fixture(scope="module")
def cut(
    stack: LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cutter, str]]:
    """The cutter and the URL of the gateway behind it, seen from the engine."""
    folder: Path = tmp_path_factory.mktemp("cut")
    (entry,) = stack.listed_models()
    engine_port = urlsplit(entry["replicas"][0]).port
    assert engine_port is not None
    port = free_port()
    with cutting(engine_port) as (cutter, cutter_port), (folder / "log").open("w") as log:
        config = folder / "stack.yaml"
        replicas = [f"http://127.0.0.1:{cutter_port}"]
        config.write_text(yaml.safe_dump({"models": [entry | {"replicas": replicas}]}))
        environment = NEUTRAL | {
            "STACK_CONFIG": str(config),
            "PORT": str(port),
            "ENGINE_API_KEY": stack.engine_key(),
        }
        with subprocess.Popen(
            [sys.executable, "-m", "api_server", "serve"],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        ) as gateway:
            url = f"http://127.0.0.1:{port}"

            def is_ready() -> bool:
                assert gateway.poll() is None
                with contextlib.suppress(httpx.HTTPError):
                    return httpx.get(f"{url}/health/ready", timeout=3).status_code == 200
                return False

            try:
                eventually(is_ready, 20, "the gateway behind the cutter is ready")
                yield cutter, url
            finally:
                gateway.terminate()
                gateway.wait(20)


@pytest.mark.parametrize("longest_piece", [1, 2, 7, 100, 5000])
def test_however_the_bytes_are_cut_the_answers_are_the_same(
    stack: LocalStack, cut: tuple[Cutter, str], longest_piece: int
) -> None:
    cutter, url = cut
    cutter.longest_piece = longest_piece
    for path, fields in REQUESTS:
        body: Json = {"model": "tiny", "cache_prompt": False, **fields}
        whole = post(f"{stack.url}{path}", body).json()
        assert_equal(from_plain(post(f"{url}{path}", body).json()), from_plain(whole))
        options: Any = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = read_events(post(f"{url}{path}", body | options).text)
        assert_valid_events(path, chunks)
        assert_equal(from_stream(chunks), from_plain(whole))


def post(url: str, body: Json) -> httpx.Response:
    response = httpx.post(url, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response
