"""Answers for Grafana: its health, and which dashboards lie in the folder that it was given.

Nothing more: no pages, no data sources, no panels. It reads the folder as Grafana would, so that
a check of the stack finds the dashboards that were mounted. Python's standard library only.
"""

import base64
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DASHBOARDS = Path("/etc/grafana/dashboards")
ONE = "/api/dashboards/uid/"
PORT = 3000


def expected_authorization() -> str:
    """The header of the administrator."""
    user = os.environ.get("GF_SECURITY_ADMIN_USER", "admin")
    password = os.environ["GF_SECURITY_ADMIN_PASSWORD"]
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def dashboards() -> dict[str, Any]:
    """Those of the folder, by what they call themselves."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS.rglob("*.json")]
    return {each["uid"]: each for each in found}


class Answers(BaseHTTPRequestHandler):
    """One request."""

    timeout = 10

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/health":
            self._send(200, {"database": "ok", "version": "stand-in"})
        elif path == "/metrics":
            self._send(200, "")
        elif not hmac.compare_digest(
            self.headers.get("Authorization", ""), expected_authorization()
        ):
            self._send(401, {"message": "Unauthorized"})
        elif path == "/api/search":
            found = dashboards().values()
            self._send(
                200, [{"uid": d["uid"], "title": d["title"], "type": "dash-db"} for d in found]
            )
        elif path.startswith(ONE) and path.removeprefix(ONE) in dashboards():
            self._send(200, {"dashboard": dashboards()[path.removeprefix(ONE)]})
        else:
            self._send(404, {"message": "this stand-in shows nothing"})

    def log_message(self, *_: object) -> None:
        """No line a request."""

    def _send(self, status: int, body: object) -> None:
        is_text = isinstance(body, str)
        data = str(body).encode() if is_text else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", PORT), Answers).serve_forever()
