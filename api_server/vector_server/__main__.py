"""`python -m api_server.vector_server FILE`: serves until it is ended.

FILE is JSON, `{"port", "api_key", "folder"}` and perhaps `"host"`; port 0: a free one. The address
is printed.
"""

import signal
import sys
import threading
from pathlib import Path

import msgspec

from api_server.vector_server.collections import FLUSH_SECONDS, Collections
from api_server.vector_server.http import Server


class Configuration(msgspec.Struct):
    """What the file says."""

    port: int
    api_key: str
    folder: str
    host: str = "127.0.0.1"


def main() -> None:
    """Ends on SIGTERM, with everything flushed; any other end costs a moment at the next start."""
    told = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Configuration)
    collections = Collections(Path(told.folder))
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    server = Server(told.host, told.port, collections, told.api_key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://{told.host}:{server.server_port}\n")
    sys.stdout.flush()
    while not ended.wait(FLUSH_SECONDS):
        collections.tidy()
        collections.flush()
    server.shutdown()
    collections.flush()


if __name__ == "__main__":
    main()
