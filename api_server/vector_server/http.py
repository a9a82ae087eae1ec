"""The server's routes. Addresses, bodies and statuses are Qdrant's own."""

import hmac
import re
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from api_server.vector_server.collections import Collections, Shard
from api_server.vector_server.refusing import RequestRefused

OPEN_PATHS = {"/", "/healthz", "/livez", "/readyz"}
COLLECTION = re.compile(r"/collections/([^/]+)")
INDEX = re.compile(r"/collections/([^/]+)/index(?:/([^/]+))?")
POINTS = re.compile(r"/collections/([^/]+)/points(?:/([a-z]+))?")
MOST_BODY_BYTES = 64 * 1024 * 1024
DONE = {"operation_id": 0, "status": "completed"}

READS: dict[str, Callable[[Shard, Any], Any]] = {
    "query": Shard.query,
    "scroll": Shard.scroll,
    "count": Shard.count,
}
CHANGES: dict[tuple[str, str | None], Callable[[Shard, Any], None]] = {
    ("PUT", None): Shard.upsert,
    ("POST", "delete"): Shard.delete,
    ("POST", "payload"): Shard.set_payload,
}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 300
    server: "Server"

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002
        """Nothing: who asks writes down what is asked."""

    def _answer(self) -> None:
        path = self.path.split("?", 1)[0]
        length = int(self.headers.get("content-length") or 0)
        if length > MOST_BODY_BYTES:
            self.close_connection = True
            self._send(413, b"the body is too long", "text/plain")
            return
        data = self.rfile.read(length)
        if path in OPEN_PATHS:
            self._send(200, b"all shards are ready", "text/plain")
        elif not self._may_enter():
            self._send(401, b"Must provide an API key", "text/plain")
        elif path == "/metrics":
            count = len(self.server.collections.names())
            told = f"# TYPE collections_total gauge\ncollections_total {count}\n"
            self._send(200, told.encode(), "text/plain")
        else:
            status, answer = self._outcome(path, data)
            self._send(status, msgspec.json.encode(answer), "application/json")

    def _outcome(self, path: str, data: bytes) -> tuple[int, Any]:
        try:
            return 200, {"result": self._result(path, data), "status": "ok", "time": 0.0}
        except RequestRefused as refused:
            return refused.status, {"status": {"error": str(refused)}, "time": 0.0}
        except (ValueError, TypeError, KeyError) as exc:
            return 400, {"status": {"error": f"Format error in JSON body: {exc}"}, "time": 0.0}
        except Exception as exc:  # noqa: BLE001 - the engine has one class for all its errors
            return 500, {"status": {"error": f"Service internal error: {exc}"}, "time": 0.0}

    def _result(self, path: str, data: bytes) -> Any:
        collections = self.server.collections
        if (self.command, path) == ("GET", "/collections"):
            return {"collections": [{"name": name} for name in collections.names()]}
        if found := COLLECTION.fullmatch(path):
            return self._of_collection(found[1], data)
        if found := INDEX.fullmatch(path):
            match self.command, found[2]:
                case "PUT", None:
                    collections.index(found[1], _document(data))
                    return DONE
                case "DELETE", str(key):
                    collections.drop_index(found[1], key)
                    return DONE
        if found := POINTS.fullmatch(path):
            if self.command == "POST" and found[2] in READS:
                return READS[found[2]](collections.shard(found[1]), _document(data))
            if change := CHANGES.get((self.command, found[2])):
                change(collections.shard(found[1]), _document(data))
                return DONE
        raise RequestRefused(404, "this server has no such route")

    def _of_collection(self, name: str, data: bytes) -> Any:
        match self.command:
            case "GET":
                return self.server.collections.describe(name)
            case "PUT":
                self.server.collections.create(name, _document(data))
                return True
            case "DELETE":
                return self.server.collections.delete(name)
        raise RequestRefused(404, "this server has no such route")

    def _may_enter(self) -> bool:
        wanted = self.server.api_key
        told = self.headers.get("api-key")
        told = told or self.headers.get("authorization", "").removeprefix("Bearer ")
        return not wanted or hmac.compare_digest(told.encode(), wanted.encode())

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        """In one piece: two would wait for each other."""
        reason = self.responses.get(status, ("",))[0]
        head = (
            f"HTTP/1.1 {int(status)} {reason}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.wfile.write(head.encode() + body)


def _document(data: bytes) -> Any:
    try:
        document = msgspec.json.decode(data)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict):
        raise RequestRefused(400, "Format error in JSON body: no object")
    return document


class Server(ThreadingHTTPServer):
    """It listens from the moment that it is made."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, collections: Collections, api_key: str) -> None:
        self.collections = collections
        self.api_key = api_key
        super().__init__((host, port), Handler)
