"""One Redis: its configuration, its command line, whether it answers.

It holds limits and cached answers, so nothing of it is written to disk. When its memory is full
it forgets what was not used for longest, of what has an end anyway: cached answers, not the limits
of an app that is at work.
"""

import asyncio
from pathlib import Path

MAX_MEMORY = "256mb"
PROBE_SECONDS = 1.0


def url(port: int, password: str) -> str:
    """The password is letters and digits: nothing to escape. redis-cli wants the user named."""
    return f"redis://default:{password}@127.0.0.1:{port}/0"


def configuration(port: int, password: str, folder: Path) -> str:
    """The text of redis.conf. The password stands there, where `ps` does not show it.

    folder: where it works; nothing is written there.
    """
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nprotected-mode yes\n"
        f'save ""\nappendonly no\nmaxmemory {MAX_MEMORY}\nmaxmemory-policy volatile-lru\n'
        f'daemonize no\ndir "{quoted}"\n'
    )


def server_arguments(program: Path, configuration_path: Path) -> list[str]:
    """The command that runs it."""
    return [str(program), str(configuration_path)]


async def answers(port: int, password: str) -> bool:
    """Whether it takes our password and commands now, or has enough of clients. Never raises."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"AUTH {password}\r\nPING\r\n".encode())
                first = await reader.readline()
                if first == b"+OK\r\n":
                    return await reader.readline() == b"+PONG\r\n"
                return first.startswith(b"-ERR max number of clients")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
