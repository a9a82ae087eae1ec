"""The shipped front (configs/front) as a process: HAProxy with nothing changed but addresses."""

import asyncio
import contextlib
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from api_server.local.process import free_port
from tests.local_stack import REPOSITORY
from tests.replicas import until

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
CONFIG = REPOSITORY / "configs" / "front"
START_SECONDS = 10


@dataclass
class RunningFront:
    """A front, with the addresses of its three listeners."""

    process: Process
    url: str
    health_url: str
    metrics_url: str
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text()

    def stop(self) -> None:
        """Ask it to end once the last answer has passed, as Compose does."""
        self.process.send_signal(signal.SIGUSR1)

    def reload(self) -> None:
        """Have it read its configuration anew."""
        self.process.send_signal(signal.SIGUSR2)


def with_addresses(config: str, ports: Mapping[str, int], gateways: Sequence[str]) -> str:
    """The configuration on the loopback, with gateways by address instead of by name. Pure."""
    lines = []
    left = set(ports)
    for line in config.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "bind":
            left.remove(rest)
            lines.append(f"    bind 127.0.0.1:{ports[rest]}")
        elif word == "server-template":
            lines += [f"    server api{n} {address}" for n, address in enumerate(gateways, 1)]
        else:
            lines.append(line)
    assert not left, f"the front does not listen on {left}"
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def running_front(folder: Path, gateways: Sequence[str]) -> AsyncIterator[RunningFront]:
    """A front for the gateways at these addresses (host:port). It ends with a SIGKILL."""
    assert HAPROXY is not None
    ports = {name: free_port() for name in (":8000", ":8404", ":8405")}
    shutil.copytree(CONFIG, folder / "front")
    config = folder / "front" / "haproxy.cfg"
    config.write_text(with_addresses(config.read_text(), ports, gateways))
    log_path = folder / "front.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(HAPROXY, "-W", "-db", "-f", str(config)), stdin=DEVNULL, stdout=log, stderr=log
        )
    urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
    front = RunningFront(process, urls[0], urls[1], urls[2], log_path)

    async def is_up() -> bool:
        assert process.returncode is None, front.log()
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(timeout=2) as http:
                return (await http.get(f"{front.health_url}/health")).status_code == 200
        return False

    try:
        await until(is_up, START_SECONDS, "the front is up")
        yield front
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)  # its worker goes with it, at once
        async with asyncio.timeout(START_SECONDS):
            await process.wait()
