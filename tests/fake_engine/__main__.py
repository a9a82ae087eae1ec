"""Runs it alone: prints one line with its address, ends at once on SIGTERM or SIGINT."""

import argparse
import asyncio
import signal

from .engine import running_engine


async def main(host: str, port: int, slots: int) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # told so, as process 1 of a container must be
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_engine(port, host=host, slots=slots) as engine:
        print(f"fake engine on {host}:{engine.port}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="fake_engine", description="An engine of bad days.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--slots", type=int, default=0, help="more requests wait; 0: no bound")
    asyncio.run(main(**vars(parser.parse_args())))
