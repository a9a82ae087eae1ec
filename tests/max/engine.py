"""MAX as a process: installed once for every checkout, the tiny model on the CPU, a gateway before.

Kept in ~/.cache/llm-serving-stack/max/VERSION-KEY: the environment, what MAX compiled, and a lock,
so that two checkouts do not install at the same time.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from api_server.local.process import free_port, last_lines, tether_command
from api_server.planning.flags import MaxPlan, max_flags
from api_server.planning.max_sizing import MaxShape
from benchmarks.peer_packages import install_in, package
from tests.local_stack import NEUTRAL, REPOSITORY

INSTALL_SECONDS = 60 * 60.0
"""2 GB, for slow networks."""

START_SECONDS = 20 * 60.0
"""The first start compiles the model: three minutes on two cores that have nothing else to do."""

STOP_SECONDS = 20.0
CONTEXT_TOKENS = 512
SLOTS = 4
MODEL = "tiny"


@dataclass(frozen=True)
class Installed:
    """MAX on this machine, and how long it took to put it there (0: it was there)."""

    version: str
    home: Path
    seconds: float

    def program(self, name: str) -> str:
        return str(self.home / "bin" / name)


@dataclass
class Engine:
    """One running MAX. `start_seconds` is from its start to the first healthy answer."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    start_seconds: float
    is_cold: bool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def generated_tokens(self) -> int:
        """By its own count, since its start, for all requests; a step after the first is one."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        mark = 'maxserve_batch_size_sum{batch_type="TG"} '
        lines = [line for line in text.splitlines() if line.startswith(mark)]
        return int(float(lines[0].removeprefix(mark))) if lines else 0


def install() -> Installed:
    """MAX as `modular.txt` pins it. Raises `TargetError` when it cannot be installed."""
    pinned = package("modular", Path(__file__).parent)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = cache / "llm-serving-stack" / "max"
    home = root / f"{pinned.version}-{pinned.digest(root)[:12]}"
    begun = time.monotonic()
    with _locked(root / f"{home.name}.lock"):
        was_there = (home / ".installed").exists()
        asyncio.run(install_in(home, pinned, INSTALL_SECONDS))
    return Installed(pinned.version, home, 0.0 if was_there else time.monotonic() - begun)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + INSTALL_SECONDS
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"somebody else holds {path}"
                time.sleep(0.5)
        yield


def make_model(installed: Installed, folder: Path) -> Path:
    """The shipped model as MAX takes it: a Hugging Face folder in 32 bit.

    Of the shipped GGUF itself it knows neither the form (q8_0) nor, without a folder, the rest.
    """
    subprocess.run(
        [installed.program("python"), "-m", "models.tiny.derive", "hf-f32", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@contextmanager
def running_engine(installed: Installed, model: Path, folder: Path) -> Iterator[Engine]:
    """`max serve` as `plan` starts it, to the end of the block; raises `AssertionError`."""
    port, metrics_port = free_port(), free_port()
    compiled = installed.home / "compiled"
    plan = MaxPlan(
        MaxShape(SLOTS, CONTEXT_TOKENS, SLOTS * CONTEXT_TOKENS), "cpu", str(model), MODEL
    )
    argv = [installed.program("max"), "serve", *max_flags(plan)]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "XDG_CACHE_HOME": str(compiled),
        "HF_HUB_OFFLINE": "1",
        "OTEL_SDK_DISABLED": "true",  # tells nobody; its metrics port stays
        "MAX_SERVE_METRICS_ENDPOINT_PORT": str(metrics_port),
    }
    has_started_once = installed.home / "compiled.complete"
    is_cold = not has_started_once.exists()
    log_path = folder / "max.log"
    begun = time.monotonic()
    with _process(argv, environment, log_path) as process:
        _wait_for_200(process, f"http://127.0.0.1:{port}/health", START_SECONDS, log_path)
        seconds = time.monotonic() - begun
        has_started_once.touch()
        yield Engine(process, port, metrics_port, seconds, is_cold)


@contextmanager
def running_gateway(engine_url: str, folder: Path) -> Iterator[str]:
    """`python -m api_server serve` in front of MAX, as an operator would; its URL."""
    port = free_port()
    entry = {"id": MODEL, "engine": "max-serve", "replicas": [engine_url], "slots": SLOTS}
    stack_file = folder / "stack.yaml"
    stack_file.write_text(yaml.safe_dump({"models": [entry]}))
    environment = NEUTRAL | {"STACK_CONFIG": str(stack_file), "PORT": str(port)}
    log_path = folder / "gateway.log"
    argv = [sys.executable, "-m", "api_server", "serve"]
    with _process(argv, environment, log_path) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_for_200(process, f"{url}/health/ready", 30, log_path)
        yield url


@contextmanager
def _process(
    argv: Sequence[str], environment: Mapping[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, none of which is left at the end."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            tether_command(list(argv)),
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also its workers
        process.wait()


def _wait_for_200(
    process: subprocess.Popen[bytes], url: str, seconds: float, log_path: Path
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=3).status_code == 200:
                return
        assert process.poll() is None, f"it ended: {last_lines(log_path)}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {last_lines(log_path)}"
        time.sleep(0.2)
