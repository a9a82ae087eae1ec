"""Debian's Chromium without a window, driven over its own protocol: no package is needed for it."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 30.0
ANSWER_SECONDS = 30.0

LISTENING = "DevTools listening on "


def chromium_program() -> str | None:
    """Its path, where a machine has one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page. `complaints` are what its console said of errors, and requests that failed."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def look(self, width: int, height: int, scheme: Literal["light", "dark"]) -> None:
        """As in a window of this size, with this colour scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Returns when it has been loaded."""
        self._events.clear()
        self._call("Page.navigate", url=url)
        ends = time.monotonic() + ANSWER_SECONDS
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read(ends)

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which may be a promise."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors of the console, and exceptions."""
        found = []
        for event in self._events:
            method, said = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
                found.append(str(said["args"]))
            elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
        return found

    @property
    def fetched(self) -> list[str]:
        """Every URL that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        order: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        self._socket.send(json.dumps(order))
        ends = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._read(ends)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found

    def _read(self, ends: float) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._socket.recv(max(0.01, ends - time.monotonic())))
        if "method" in said:
            self._events.append(said)
        return said


@contextmanager
def running_chromium(program: str, profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own; `profile` is a folder for what it stores."""
    complaints = profile / "stderr.txt"
    with complaints.open("wb") as errors:
        process = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"),
                *("--disable-background-networking", "--hide-scrollbars", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        with connect(_address(process, complaints), max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], complaints: Path) -> str:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        for line in complaints.read_text(errors="replace").splitlines():
            if line.startswith(LISTENING):
                return line.removeprefix(LISTENING).strip()
        time.sleep(0.05)
    raise AssertionError(f"no browser: {complaints.read_text(errors='replace')[-1000:]}")
