"""One `api_server.vector_server`: its configuration, its command line, whether it answers."""

import asyncio
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 1.0


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def configuration(port: int, key: str, folder: Path) -> str:
    """The key stands in a file, where `ps` does not show it."""
    return json.dumps({"port": port, "api_key": key, "folder": str(folder)})


def server_arguments(configuration_path: Path) -> list[str]:
    """The command that runs it."""
    return [sys.executable, "-m", "api_server.vector_server", str(configuration_path)]


def variables(engine: Path) -> dict[str, str]:
    """What it needs of its environment: ourselves, and the engine's package."""
    return {"PYTHONPATH": f"{REPOSITORY}:{engine}"}


async def answers(port: int) -> bool:
    """Whether it is ready. Never raises."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
