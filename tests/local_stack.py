"""Runs `python -m api_server local` as a user would, from outside, and sees what it leaves."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from api_server.local.data_dir import remove_cluster
from api_server.local.postgres_cluster import processes_in
from api_server.local.process import free_port
from api_server.settings import ENGINE_NAMES

NEUTRAL = {
    "HOST": "127.0.0.1",
    "MODEL": "",
    "EMBEDDINGS": "",
    "EMBEDDING_MODEL": "",
    "STACK_CONFIG": "",
    "LOG_LEVEL": "",
    "AI_SERVICE_URL": "",
    "ENGINE_URLS": "",
    "EMBEDDINGS_URL": "",
    "DRAIN_SECONDS": "",
    "ADMIN_API_KEY": "",
    "ENVIRONMENT": "development",
    "AUTH": "off",
    "DEVELOPMENT_KEY": "",
    "POSTGRES_URL": "",
    "REDIS_URL": "",
    "S3_URL": "",
    "QDRANT_URL": "",
    "GRAFANA_POSTGRES_PASSWORD": "",
    "MONITORING": "off",
    "JWT_SECRET": "",
    "JWT_JWKS_URL": "",
    "JWT_ISSUER": "",
    "JWT_AUDIENCE": "",
    "JWT_APP": "",
}
"""So that the settings of whoever runs the tests do not change them."""

START_SECONDS = 40
"""Until a stack is ready whose engine and stores are there; a few, where nothing else runs."""

REPOSITORY = Path(__file__).resolve().parent.parent


def run_command(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m api_server NAME` to its end, which must come within 30 s."""
    return subprocess.run(
        [sys.executable, "-m", "api_server", name],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def eventually(claim: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a claim holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class LocalStack:
    """One running (or failed) `make local`."""

    process: subprocess.Popen[str]
    port: int
    data_dir: Path
    output_path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=3).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, seconds: float) -> None:
        def claim() -> bool:
            assert self.process.poll() is None, self.output
            return self.is_ready()

        eventually(claim, seconds, "the stack is ready")
        eventually(lambda: "Ready: " in self.output, 10, "the supervisor has seen it too")

    def engine_pid(self) -> int:
        return self._pid_with("--jinja")

    def embedding_engine_pid(self) -> int:
        return self._pid_with("--embeddings")

    def vectors_pid(self) -> int:
        return self._pid_with("api_server.vector_server")

    def _pid_with(self, word: str) -> int:
        return next(pid for pid, line in self.children() if word in line)

    def listed_models(self) -> list[dict[str, Any]]:
        """The entries of the stack file that the gateway was given."""
        models: list[dict[str, Any]] = yaml.safe_load(
            (self.data_dir / "stack.yaml").read_text(encoding="utf-8")
        )["models"]
        return models

    def engine_key(self) -> str:
        """The bearer token that the engines want, as the gateway was told."""
        told = next(env for _, line, env in processes() if self._is_gateway(line, env))
        found = re.search(r"(?:^|\0)ENGINE_API_KEY=([^\0]+)", told)
        assert found is not None
        return found[1]

    def _is_gateway(self, line: str, environment: str) -> bool:
        return "api_server serve" in line and str(self.data_dir) in environment

    def children(self) -> list[tuple[int, str]]:
        """Processes that belong to this stack: they name its data directory or its port.

        PostgreSQL and Redis write over their environment; they work in folders of it.
        """
        marks = (str(self.data_dir), f"PORT={self.port}\0")
        folder = str(self.data_dir / "vectors.json")
        named = {
            pid: line
            for pid, line, env in processes()
            if any(m in env for m in marks) or folder in line
        }
        for pid in processes_in(self.data_dir / "postgres"):
            named.setdefault(pid, "postgres")
        for pid in processes_in(self.data_dir):
            named.setdefault(pid, "redis-server")
        return list(named.items())

    def postgres_pid(self) -> int:
        """That of the server, the parent of all its processes."""
        postmaster = (self.data_dir / "postgres/postmaster.pid").read_text()
        return int(postmaster.splitlines()[0])

    def redis_pid(self) -> int:
        return next(pid for pid, line in self.children() if line == "redis-server")

    def postgres_url(self) -> str:
        return (self.data_dir / "postgres.url").read_text().strip()

    def redis_url(self) -> str:
        return (self.data_dir / "redis.url").read_text().strip()

    def stop(self, signal_: signal.Signals = signal.SIGINT, seconds: float = 20) -> int:
        self.process.send_signal(signal_)
        return self.process.wait(seconds)


def processes() -> Iterator[tuple[int, str, str]]:
    """Pid, command line and environment of all other processes of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
                environment = (entry / "environ").read_text(errors="replace")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z":
                yield int(entry.name), line, environment


def changed_stack_file(folder: Path, **sections: Mapping[str, object]) -> str:
    """The shipped stack file with some keys of its sections changed; its path, in this folder."""
    document = yaml.safe_load((REPOSITORY / "configs/stack.yaml").read_text())
    for section, changes in sections.items():
        document[section] |= changes
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@contextmanager
def local_stack(
    data_dir: Path, folder: Path = REPOSITORY, /, **environment: str
) -> Iterator[LocalStack]:
    """Start it in the background, in a folder; whatever happens, nothing of it is left at the end.

    Its data goes too: root has to keep PostgreSQL's outside of pytest's folders.
    """
    try:
        with kept_stack(data_dir, folder, **environment) as stack:
            yield stack
    finally:
        remove_cluster(data_dir / "postgres")


@contextmanager
def kept_stack(
    data_dir: Path, folder: Path = REPOSITORY, /, **environment: str
) -> Iterator[LocalStack]:
    """The same, but for the data, which is kept for another one that follows."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = int(environment.setdefault("PORT", str(free_port())))
    neutral = {name: value for name, value in NEUTRAL.items() if name not in ENGINE_NAMES}
    output_path = data_dir.parent / f"{data_dir.name}-{port}.out"
    with output_path.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api_server", "local"],
            cwd=folder,
            env=os.environ | neutral | {"DATA_DIR": str(data_dir)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
    stack = LocalStack(process, port, data_dir, output_path)
    try:
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
