"""A hub of models and its CDN, on two ports, for `download_model.sh`: it answers as Hugging Face
does, counts what it sends, and plays faults.

A file with `lfs` is redirected to the CDN, its sha256 in `x-linked-etag`; a small one comes from
the hub itself, with git's hash as its etag. `faults` has one for each download; then all goes well.
"""

import hashlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "signed-for-one-hour"


def git_hash(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Asked:
    """One request: who got it, what it carried, how many bytes of content were sent."""

    where: str
    method: str
    path: str
    token: str | None
    start: int = 0
    sent: int = 0


@dataclass
class Hub:
    """What it has, what it shall do, and what it saw."""

    files: dict[str, bytes] = field(default_factory=dict)  # owner/repo/file
    lfs: bool = True
    says_etag: bool = True
    says_size: int | None = None
    token: str | None = None
    moved: bool = False  # to another name of its own, as renamed repositories are
    head_faults: deque[int] = field(default_factory=deque)  # statuses
    faults: deque[str] = field(default_factory=deque)
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    cdn_url: str = ""

    def downloads(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """Of both servers."""

    hub: Hub
    where: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def note(self) -> Asked:
        asked = Asked(self.where, self.command, self.path, self.headers["Authorization"])
        self.hub.asked.append(asked)
        return asked

    def answer(self, status: int, **headers: str) -> None:
        """No body; `content_length` may say otherwise, to HEAD."""
        self.send_response(status)
        for name, value in ({"content_length": "0"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_fault(self, status: int) -> None:
        self.answer(status, **({"retry_after": "1"} if status in {429, 503} else {}))

    def wanted(self) -> tuple[str, bytes | None]:
        """The file's key and content, of `/owner/repo/resolve/revision/file`."""
        owner, repo, _, _, name = self.path.strip("/").split("?")[0].split("/", 4)
        key = f"{owner}/{repo}/{name}"
        return key, self.hub.files.get(key)

    def do_HEAD(self) -> None:
        self.note()
        hub = self.hub
        if hub.head_faults:
            self.answer_fault(hub.head_faults.popleft())
            return
        if hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
            self.answer(403 if self.headers["Authorization"] else 401)
            return
        if hub.moved and not self.path.startswith("/renamed"):
            self.answer(307, location="/renamed" + self.path[self.path.index("/", 1) :])
            return
        self.path = self.path.replace("/renamed/", "/owner/")
        key, content = self.wanted()
        if content is None:
            self.answer(404, x_error_message="Entry not found")
            return
        said = {"x_repo_commit": COMMIT}
        size = str(len(content) if hub.says_size is None else hub.says_size)
        if not hub.lfs:
            if hub.says_etag:
                said["etag"] = f'W/"{git_hash(content)}"'
            self.answer(200, content_length=size, **said)
            return
        if hub.says_etag:
            said["x_linked_etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            said["x_linked_size"] = size
        self.answer(302, location=f"{hub.cdn_url}/a/b/c/d/{key}?{SIGNATURE}", **said)

    def do_GET(self) -> None:
        asked = self.note()
        if self.where == "hub":
            content = self.wanted()[1]
        else:
            content = self.hub.files.get(self.path.split("?")[0].split("/", 5)[5])
        if content is None:
            self.answer(404)
            return
        fault = self.hub.faults.popleft() if self.hub.faults else ""
        if fault.isdigit():
            self.answer_fault(int(fault))
            return
        ranged = self.headers["Range"]
        asked.start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        if not self.hub.ranges:
            asked.start = 0
        with suppress(ConnectionError):
            self.send(content, asked, fault)

    def send(self, content: bytes, asked: Asked, fault: str) -> None:
        """The rest of `content` from `asked.start`, spoiled by `fault`."""
        rest = content[asked.start :]
        if fault == "shorter":
            rest = rest[: len(rest) // 2]
        elif fault == "longer":
            rest += b"x" * 1000
        elif fault == "corrupt":
            rest = bytes([rest[0] ^ 1]) + rest[1:]
        self.send_response(206 if asked.start else 200)
        if asked.start:
            span = f"bytes {asked.start}-{len(content) - 1}/{len(content)}"
            self.send_header("content-range", span)
        self.send_header("etag", '"' + "e" * 64 + '"')  # of another kind than the hub's
        if fault == "endless":
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(len(rest)))
        self.end_headers()
        for first in range(0, len(rest), 16_384):
            if first >= len(rest) // 2 and self.breaks_off(fault):
                return
            if fault == "slow":
                time.sleep(0.06)
            piece = rest[first : first + 16_384]
            self.wfile.write(piece)
            asked.sent += len(piece)
        while fault == "endless":  # until nobody listens
            self.wfile.write(b"x" * 16_384)
            time.sleep(0.001)

    def breaks_off(self, fault: str) -> bool:
        if fault == "stall":
            time.sleep(30)
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fault != "truncate":
            return False
        self.close_connection = True
        return True


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Both servers, each with a thread for each connection."""
    hub = Hub()
    servers = []
    for where in ("hub", "cdn"):
        handler = type("At", (Handler,), {"hub": hub, "where": where})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.block_on_close = False  # a stalled one sleeps on
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
