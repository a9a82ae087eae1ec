"""One object store: rclone, over a folder. Its command line, its keys, whether it answers.

It speaks S3 for this machine only; the buckets are folders.
"""

import asyncio
from pathlib import Path

PROBE_SECONDS = 1.0


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def server_arguments(program: Path, folder: Path, port: int) -> list[str]:
    """The command that runs it. What is cut off lies under its own name, where it is found."""
    return [
        *(str(program), "serve", "s3", "--config", "", "--inplace"),
        *("--addr", f"127.0.0.1:{port}", str(folder)),
    ]


def variables(access_key: str, secret_key: str) -> dict[str, str]:
    """What it is told where `ps` does not show it."""
    return {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'}  # a list of one, as CSV


async def answers(port: int) -> bool:
    """Whether it takes requests now, and lets nobody in without a key. Never raises."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                return (await reader.readline()).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
