"""An HTTP proxy in front of a gateway that keeps what was asked and answered, byte for byte.

It runs in threads of its own and passes on each piece of an answer as it comes.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Recorded:
    """One exchange; `path` is without the query."""

    method: str
    path: str
    status: int
    content_type: str
    body: bytes


class RecordingProxy(ThreadingHTTPServer):
    """`recorded` grows while it is used, an exchange at its end."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: str) -> None:
        self.target = httpx.Client(base_url=target, timeout=ANSWER_SECONDS)
        self.recorded: list[Recorded] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordingProxy

    def handle_one_request(self) -> None:
        """Whatever the method is."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._pass_on()
        self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing is printed."""

    def _pass_on(self) -> None:
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP]
        with self.server.target.stream(
            self.command, self.path, headers=headers, content=self._body()
        ) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            pieces = []
            for piece in answer.iter_raw():
                pieces.append(piece)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            told = answer.headers.get("content-type", "")
            self.server.recorded.append(
                Recorded(
                    self.command,
                    self.path.partition("?")[0],
                    answer.status_code,
                    told.partition(";")[0],
                    b"".join(pieces),
                )
            )
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)


@contextlib.contextmanager
def recording_proxy(target: str) -> Iterator[RecordingProxy]:
    """In front of the gateway at `target`."""
    proxy = RecordingProxy(target)
    thread = threading.Thread(target=proxy.serve_forever, name="recording proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        proxy.target.close()
        thread.join()
