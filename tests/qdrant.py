"""Qdrant for the tests: the one at QDRANT_URL (with QDRANT_API_KEY) where those are set, else the
stand-in.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import fake_qdrant

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


@contextlib.contextmanager
def running_fake(folder: Path, api_key: str) -> Iterator[QdrantServer]:
    """The stand-in, in a process of its own."""
    variables = {
        "QDRANT__SERVICE__HOST": "127.0.0.1",
        "QDRANT__SERVICE__HTTP_PORT": "0",
        "QDRANT__SERVICE__API_KEY": api_key,
        "QDRANT__STORAGE__STORAGE_PATH": str(folder),
    }
    argv = [sys.executable, fake_qdrant.__file__]
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield QdrantServer(process.stdout.readline().strip(), api_key)
        finally:
            process.kill()


@contextlib.contextmanager
def running_qdrant() -> Iterator[QdrantServer]:
    """The real one where there is one."""
    if REAL_URL is not None:
        yield QdrantServer(REAL_URL.rstrip("/"), os.environ.get("QDRANT_API_KEY", ""))
        return
    with (
        tempfile.TemporaryDirectory(prefix="stack-qdrant-") as folder,
        running_fake(Path(folder), secrets.token_hex(16)) as server,
    ):
        yield server
