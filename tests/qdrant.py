"""Qdrant for the tests: the one at QDRANT_URL (with QDRANT_API_KEY) where those are set, else the
vector server of `make local`, over Qdrant's own engine.
"""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api_server.local import vector_database
from api_server.local.process import free_port, tether_command
from api_server.local.store_programs import find_vector_engine
from api_server.local.terminal import TerminalSay
from api_server.settings import load_environment
from tests.stores import Server

START_SECONDS = 30
REAL_URL = os.environ.get("QDRANT_URL")


@dataclass(frozen=True)
class QdrantServer:
    """Where it is, and its key."""

    url: str
    api_key: str

    @property
    def variables(self) -> dict[str, str]:
        """What the stack is told of it."""
        return {"QDRANT_URL": self.url, "QDRANT_API_KEY": self.api_key}

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Past the stack."""
        headers = {"api-key": self.api_key}
        return httpx.request(method, self.url + path, json=body, headers=headers, timeout=30)

    def describe(self, collection: str) -> Any:
        """A collection as it is."""
        return self.ask("GET", f"/collections/{collection}").raise_for_status().json()["result"]


class VectorServer(Server):
    """The vector server as a process; it can be killed, paused and started again on its port."""

    def __init__(self, folder: Path, api_key: str) -> None:
        port, engine = free_port(), vector_engine()
        configuration = folder / "vectors.json"
        told = vector_database.configuration(port, api_key, folder / "vectors")
        configuration.write_text(told)
        variables = [f"{name}={text}" for name, text in vector_database.variables(engine).items()]
        argv = ["env", *variables, *vector_database.server_arguments(configuration)]
        super().__init__(tether_command(argv), port, folder / "vectors.log")
        self.api_key = api_key

    @property
    def address(self) -> QdrantServer:
        return QdrantServer(vector_database.url(self.port), self.api_key)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{vector_database.url(self.port)}/readyz", timeout=1).is_success:
                    return
            time.sleep(0.05)
        raise AssertionError(self.log_path.read_text())


def vector_engine() -> Path:
    """The engine's package, installed the first time."""
    cache_home = load_environment().cache_home
    work = find_vector_engine(cache_home=cache_home, say=TerminalSay(sys.stderr))
    with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
        return pool.submit(asyncio.run, work).result()


@contextlib.contextmanager
def running_vector_server(folder: Path, api_key: str | None = None) -> Iterator[VectorServer]:
    """One of a test's own."""
    folder.mkdir(parents=True, exist_ok=True)
    server = VectorServer(folder, api_key or secrets.token_hex(16))
    server.start()
    try:
        server.wait()
        yield server
    finally:
        if server.process is not None:
            server.resume()
        server.kill()


@contextlib.contextmanager
def running_qdrant() -> Iterator[QdrantServer]:
    """The real one where there is one."""
    if REAL_URL is not None:
        yield QdrantServer(REAL_URL.rstrip("/"), os.environ.get("QDRANT_API_KEY", ""))
        return
    with (
        tempfile.TemporaryDirectory(prefix="stack-qdrant-") as folder,
        running_vector_server(Path(folder)) as server,
    ):
        yield server.address
