"""PostgreSQL goes away for three seconds under a run that streams, and comes back."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.run_homes import Home, Told, assistants_home, events_of, names, text_of
from tests.slow_proxy import slow_proxy
from tests.stores import PostgresServer, running_postgres

AWAY_SECONDS = 3.0
TOKENS = 25
TIMEOUTS = dict.fromkeys(
    ("queue_seconds", "connect_seconds", "first_token_seconds", "idle_seconds", "total_seconds"), 30
)


async def hangs(server: PostgresServer) -> None:
    server.pause()
    try:
        await asyncio.sleep(AWAY_SECONDS)
    finally:
        server.resume()


async def is_killed(server: PostgresServer) -> None:
    server.kill()
    await asyncio.sleep(AWAY_SECONDS)
    server.start()
    await asyncio.to_thread(server.wait)


async def streamed(home: Home, thread: str, outage: Callable[[], Awaitable[None]]) -> list[Told]:
    """The whole stream of a run; the outage begins with the first word."""
    body = {"assistant_id": await home.assistant(), "stream": True}
    told: list[Told] = []
    away: asyncio.Task[None] | None = None
    async with home.http.stream("POST", f"/v1/threads/{thread}/runs", json=body) as answer:
        async for event in events_of(answer):
            told.append(event)
            if away is None and event.event == "thread.message.delta":
                away = asyncio.ensure_future(outage())
    assert away is not None
    await away
    return told


async def ends_well(home: Home, thread: str, told: list[Told]) -> None:
    """Completed, perhaps after a resume; one message, and a story without gaps."""
    assert told[-1].event in ("done", "error")
    run_id = told[0].data["id"]
    path = f"/v1/threads/{thread}/runs/{run_id}"
    run = await home.until(thread, run_id, seconds=20)
    if run["status"] != "completed":
        assert f"{path}/resume" in run["last_error"]["message"], run
        await home.post(f"{path}/resume")
        run = await home.until(thread, run_id, seconds=20)
    assert run["status"] == "completed", run
    user, said = await home.messages(thread)
    assert (user["role"], said["role"], said["status"]) == ("user", "assistant", "completed")
    assert said["content"][0]["text"]["value"] == "x" * TOKENS
    again = await home.stream(f"{path}/events")
    assert names(again)[-2:] == ["thread.run.completed", "done"]
    ids = [each.id or 0 for each in again[:-1]]
    assert ids == sorted(set(ids))
    last = [each.event for each in again].count("thread.message.created")
    if last == 1:  # nobody had to begin the answer again
        assert text_of(again) == "x" * TOKENS
        assert [each for each in told if each.id is not None] == again[:-1]


@pytest.mark.parametrize("outage", [hangs, is_killed])
async def test_a_run_streams_while_postgres_is_away(
    tmp_path: Path, outage: Callable[[PostgresServer], Awaitable[None]]
) -> None:
    with running_postgres() as server, server.database() as url:
        async with (
            asyncio.timeout(50),
            assistants_home(tmp_path, url, timeouts=TIMEOUTS) as home,
        ):
            home.engine.obey(pause=0.1, tokens=TOKENS)
            thread = await home.thread()
            told = await streamed(home, thread, lambda: outage(server))
            await ends_well(home, thread, told)


async def test_a_run_streams_while_postgres_cannot_be_reached(
    tmp_path: Path, postgres_url: str
) -> None:
    """The server lives; each connection is broken, and none can be made."""
    place, _, database = postgres_url.rpartition("/")
    address, _, port = place.rpartition(":")
    with slow_proxy(int(port)) as proxy:

        async def is_cut_off() -> None:
            await asyncio.to_thread(proxy.set, "refuse")
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(proxy.set, "pass")

        async with (
            asyncio.timeout(50),
            assistants_home(
                tmp_path, f"{address}:{proxy.port}/{database}", timeouts=TIMEOUTS
            ) as home,
        ):
            home.engine.obey(pause=0.1, tokens=TOKENS)
            thread = await home.thread()
            told = await streamed(home, thread, is_cut_off)
            await ends_well(home, thread, told)
