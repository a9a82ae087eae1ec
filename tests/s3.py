"""A real server that speaks S3 for the tests: rclone, over a folder.

It forgets types and metadata of objects when it ends, and has no life-cycle rules.
"""

import contextlib
import secrets
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from api_server.local.process import free_port, tether_command
from tests.stores import START_SECONDS, Server

RCLONE = Path(sys.executable).parent / "rclone"


class S3Server(Server):
    """Buckets are folders of `folder`. It keeps its port when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(16)
        port = free_port()
        argv = [
            *(str(RCLONE), "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", f"{self.access_key},{self.secret_key}", str(self.folder)),
        ]
        super().__init__(tether_command(argv), port, folder / "rclone.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What the stack is told of it."""
        return {
            "S3_URL": self.url,
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
        }

    def wait(self) -> None:
        """Until it answers, if only that it lets nobody in without a key."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=2).close()
                return
            except urllib.error.HTTPError as exc:
                exc.close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server of one's own."""
    with tempfile.TemporaryDirectory(prefix="stack-s3-") as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            server.wait()
            yield server
        finally:
            server.resume() if server.process is not None else None
            server.kill()
