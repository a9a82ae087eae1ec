"""A stand-in for Qdrant where it cannot be had: `python tests/fake_qdrant.py`.

It has what the stack asks for so far: readiness, the API key, collections with their payload
indexes, kept in the storage folder. It holds no points. Addresses, bodies, statuses and variables
are Qdrant's own; tests/integration/test_vectors.py is the same for both. Standard library only, as
it runs alone in a container as well.
"""

import hmac
import json
import os
import re
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OPEN_PATHS = {"/", "/healthz", "/livez", "/readyz"}
DISTANCES = {"Cosine", "Dot", "Euclid", "Manhattan"}
KINDS = {"keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid"}
MAY_BE_TENANT = {"keyword", "uuid"}
COLLECTION = re.compile(r"/collections/([^/]+)")
INDEX = re.compile(r"/collections/([^/]+)/index(?:/([^/]+))?")


class RequestRefused(Exception):  # noqa: N818 - no error of this program
    """The status and the sentence that a request gets."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Collections:
    """All collections, by name, as `GET /collections/NAME` describes them; each change is kept."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "collections.json"
        self._lock = threading.Lock()
        self._all: dict[str, Any] = (
            json.loads(self._path.read_text()) if self._path.exists() else {}
        )

    def names(self) -> list[str]:
        return sorted(self._all)

    def describe(self, name: str) -> Any:
        if name not in self._all:
            raise RequestRefused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._all[name]

    def create(self, name: str, body: Any) -> None:
        vectors = body.get("vectors", {})
        for each in [vectors] if "size" in vectors else vectors.values():
            _check_vectors(each)
        with self._lock:
            if name in self._all:
                raise RequestRefused(409, f"Wrong input: Collection `{name}` already exists!")
            self._all[name] = {
                "status": "green",
                "optimizer_status": "ok",
                "points_count": 0,
                "indexed_vectors_count": 0,
                "config": {
                    "params": {"vectors": vectors, "shard_number": 1, "on_disk_payload": True},
                    "hnsw_config": {"m": 16, "ef_construct": 100} | body.get("hnsw_config", {}),
                    "quantization_config": body.get("quantization_config"),
                },
                "payload_schema": {},
            }
            self._keep()

    def delete(self, name: str) -> bool:
        with self._lock:
            is_there = self._all.pop(name, None) is not None
            self._keep()
        return is_there

    def index(self, name: str, body: Any) -> None:
        schema = body.get("field_schema")
        params = {"type": schema} if isinstance(schema, str) else schema
        if not isinstance(params, dict) or params.get("type") not in KINDS:
            raise RequestRefused(422, "Format error in JSON body: unknown type of the index")
        if "is_tenant" in params and params["type"] not in MAY_BE_TENANT:
            raise RequestRefused(422, "Format error in JSON body: unknown field `is_tenant`")
        described = {"data_type": params["type"], "points": 0}
        if not isinstance(schema, str):
            described["params"] = params
        with self._lock:
            self.describe(name)["payload_schema"][body["field_name"]] = described
            self._keep()

    def drop_index(self, name: str, key: str) -> None:
        with self._lock:
            self.describe(name)["payload_schema"].pop(key, None)
            self._keep()

    def _keep(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._all))
        partial.replace(self._path)


def _check_vectors(vectors: Any) -> None:
    size, distance = vectors.get("size"), vectors.get("distance")
    if not isinstance(size, int) or not 1 <= size <= 65536 or distance not in DISTANCES:
        raise RequestRefused(422, "Format error in JSON body: size or distance of vectors")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: "Server"

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002
        """Nothing: its standard output is for its address."""

    def _answer(self) -> None:
        path = self.path.split("?", 1)[0]
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path not in OPEN_PATHS and not self._may_enter():
            return
        if path in OPEN_PATHS:
            self._send(200, "all shards are ready" if path == "/readyz" else "fake qdrant")
        elif path == "/metrics":
            count = len(self.server.collections.names())
            self._send(200, f"# TYPE collections_total gauge\ncollections_total {count}\n")
        else:
            try:
                result = self._result(path, data)
            except RequestRefused as refused:
                told = {"status": {"error": str(refused)}, "time": 0.0}
                self._send(refused.status, json.dumps(told), "application/json")
            else:
                told = {"result": result, "status": "ok", "time": 0.0}
                self._send(200, json.dumps(told), "application/json")

    def _result(self, path: str, data: bytes) -> Any:
        collections = self.server.collections
        if (self.command, path) == ("GET", "/collections"):
            return {"collections": [{"name": name} for name in collections.names()]}
        if found := COLLECTION.fullmatch(path):
            match self.command:
                case "GET":
                    return collections.describe(found[1])
                case "PUT":
                    collections.create(found[1], _document(data))
                    return True
                case "DELETE":
                    return collections.delete(found[1])
        elif found := INDEX.fullmatch(path):
            match self.command, found[2]:
                case "PUT", None:
                    collections.index(found[1], _document(data))
                    return {"operation_id": 0, "status": "completed"}
                case "DELETE", str(key):
                    collections.drop_index(found[1], key)
                    return {"operation_id": 0, "status": "completed"}
        raise RequestRefused(404, "this stand-in has no such route")

    def _may_enter(self) -> bool:
        wanted = self.server.api_key
        told = self.headers.get("api-key")
        told = told or self.headers.get("authorization", "").removeprefix("Bearer ")
        if not wanted or hmac.compare_digest(told.encode(), wanted.encode()):
            return True
        self._send(401, "Invalid API key or JWT" if told else "Must provide an API key")
        return False

    def _send(self, status: int, text: str, content_type: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _document(data: bytes) -> Any:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestRefused(400, "Format error in JSON body: no object")
    return document


class Server(ThreadingHTTPServer):
    """It listens from the moment that it is made."""

    daemon_threads = True

    def __init__(self, host: str, port: int, folder: Path, api_key: str) -> None:
        self.collections = Collections(folder)
        self.api_key = api_key
        super().__init__((host, port), Handler)


def main() -> None:
    """Serve until it is killed, as the variables say."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # process 1 must be told what to do
    told = os.environ.get
    server = Server(
        told("QDRANT__SERVICE__HOST", "0.0.0.0"),
        int(told("QDRANT__SERVICE__HTTP_PORT", "6333")),
        Path(told("QDRANT__STORAGE__STORAGE_PATH", "./storage")),
        told("QDRANT__SERVICE__API_KEY", ""),
    )
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
