"""Runs in PostgreSQL: who may write, and what a writer learns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from api_server.schemas.runs import Wish
from api_server.services.runs.doing import chat_of
from api_server.services.runs.following import Following
from api_server.services.runs.hub import MOST_UNHEARD, Hub
from api_server.services.runs.keeping import Keeper
from api_server.services.runs.objects import run_object, to_json
from api_server.services.runs.writing import LostError, Pen, Scribe, WantedCancelledError
from api_server.stores.jobs import JobStore, Taken
from api_server.stores.postgres import Connection, Postgres
from api_server.stores.run_changes import Over, TakenError, add_run, end_job, lock_job
from api_server.stores.run_rows import Change, Event, Run
from api_server.stores.runs import RunStore
from api_server.stores.threads import NewThread, insert_thread
from tests.job_rows import new_job


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Postgres]:
    async with contextlib.aclosing(Postgres(postgres_url)) as postgres:
        yield postgres


WISH = to_json(Wish("m"))


async def begun(
    postgres: Postgres,
    thread: str = "thread_1",
    number: int = 1,
    body: str = WISH,
    app: str = "app_a",
) -> Run:
    job = replace(new_job(), id=f"job_{number}", chat=chat_of(f"run_{number}"))
    now = datetime.now(UTC)
    run = Run(
        *(f"run_{number}", thread, app, None, "asst_1", now, "queued"),
        *(body, "{}", job.id, now + timedelta(hours=1)),
    )

    async def work(connection: Connection) -> None:
        if thread == f"thread_{number}":
            await insert_thread(connection, NewThread(thread, app, None, None, "{}"))
        created = Event(1, "thread.run.created", "{}")
        assert await add_run(connection, run, [created], job, timeout_seconds=60) is not None

    await RunStore(postgres).transaction(work)
    return replace(run, last_event=1)


async def claimed(postgres: Postgres, lease_seconds: float = 30) -> Taken:
    (taken,) = await JobStore(postgres, "run").claim(
        "w", 1, lease_seconds=lease_seconds, timeout_seconds=60, max_attempts=9
    )
    return taken


async def test_a_thread_has_one_active_run(postgres: Postgres) -> None:
    await begun(postgres)
    with pytest.raises(TakenError):
        await begun(postgres, number=2)


async def test_runs_of_an_app_wait_their_turn_among_those_of_others(postgres: Postgres) -> None:
    """`add` places them as `line_up` of jobs does."""
    for number, app in enumerate(("app_a", "app_a", "app_a", "app_b"), 1):
        await begun(postgres, f"thread_{number}", number, app=app)
    order = [(await claimed(postgres)).app_id for _ in range(3)]
    assert sorted(order[:2]) == ["app_a", "app_b"]
    assert order[2] == "app_a"
    for number, app in ((5, "app_a"), (6, "app_c")):
        await begun(postgres, f"thread_{number}", number, app=app)
    rows = await postgres.fetch("select job_id from job_queue order by tag")
    order = [row["job_id"] for row in rows]
    assert order.index("job_6") < order.index("job_5"), "who comes late comes before a third one"


async def test_a_run_belongs_to_the_user_of_its_thread(postgres: Postgres) -> None:
    async def work(connection: Connection) -> Run | None:
        await insert_thread(connection, NewThread("thread_9", "app_a", "maria", None, "{}"))
        job, now = replace(new_job(), id="job_9"), datetime.now(UTC)
        run = Run(
            *("run_9", "thread_9", "app_a", None, "asst_1", now, "queued"),
            *(WISH, "{}", job.id, now + timedelta(hours=1)),
        )
        return await add_run(connection, run, [], job, timeout_seconds=60)

    added = await RunStore(postgres).transaction(work)
    assert added is not None
    kept = await RunStore(postgres).find("app_a", "maria", "thread_9", "run_9")
    assert (added.user_name, kept) == ("maria", added)


async def test_who_lost_the_job_writes_nothing(postgres: Postgres) -> None:
    run, store = await begun(postgres), RunStore(postgres)
    first = await claimed(postgres, lease_seconds=0.01)
    doing = replace(run, status="in_progress", last_event=2)
    told = Event(2, "thread.run.in_progress", "{}")
    assert await store.write([Change(doing, first.fence, events=[told])]) == {
        "run_1": "in_progress"
    }
    again = [Change(doing, first.fence, events=[told])]
    assert await store.write(again) == {"run_1": "in_progress"}, "the same may come twice"
    await asyncio.sleep(0.05)
    second = await claimed(postgres)
    assert second.fence > first.fence
    late = Change(replace(doing, status="completed"), first.fence, events=[Event(9, "x", "{}")])
    assert await store.write([late]) == {}
    assert await store.still_ours([late]) == {}
    assert [event.n for event in await store.events("run_1", 0)] == [1, 2]
    found = await store.find("app_a", None, "thread_1", "run_1")
    assert found is not None
    assert found.status == "in_progress"


async def test_who_did_an_earlier_leg_writes_nothing(postgres: Postgres) -> None:
    run, store = await begun(postgres), RunStore(postgres)
    held = await claimed(postgres)
    await postgres.execute("update runs set job_id = 'job_of_the_next_leg'")
    assert await store.write([Change(replace(run, status="in_progress"), held.fence)]) == {}


async def test_a_pen_learns_what_became_of_its_run(postgres: Postgres) -> None:
    run, store, hub = await begun(postgres), RunStore(postgres), Hub()
    scribe = Scribe(store, hub)
    job = await claimed(postgres)
    heard: list[str] = []
    channel = hub.open(run.id, run.last_event)
    pen = Pen(scribe, channel, run, job.fence, lambda: heard.append("cancel"))
    for number in range(600):
        pen.note(events=[("thread.message.delta", {"n": number})])
    newest = channel.after(1)
    assert newest is not None
    assert len(newest) == 600, "what is not written stays, however much it is"
    await pen.flush()
    assert channel.after(1) is None, "rows can tell of it now"
    assert [event.n for event in await store.events(run.id, 599)] == [600, 601]
    await postgres.execute("update runs set status = 'cancelling'")
    waiting = replace(pen.run, status="requires_action")
    with pytest.raises(WantedCancelledError):
        await pen.commit(waiting, events=[("thread.run.requires_action", run_object(waiting))])
    pen.note(replace(pen.run, status="in_progress"))
    await pen.flush()
    assert heard == ["cancel"]
    await postgres.execute("update jobs set fence = fence + 1")
    pen.note(events=[("x", {})])
    with pytest.raises(LostError):
        await pen.flush()
    with pytest.raises(LostError):
        await pen.keep_pace()
    await scribe.aclose()


@pytest.mark.parametrize("is_locked", [True, False])
async def test_who_ends_a_job_and_who_claims_it_do_not_wait_for_each_other(
    postgres: Postgres, is_locked: bool
) -> None:
    await begun(postgres)
    jobs = JobStore(postgres, "run")
    claiming: asyncio.Task[object] | None = None

    async def ending(connection: Connection) -> str | None:
        nonlocal claiming
        state = await lock_job(connection, "job_1") if is_locked else None
        claiming = asyncio.create_task(
            jobs.claim("w", 1, lease_seconds=30, timeout_seconds=60, max_attempts=3)
        )
        if is_locked:
            await asyncio.sleep(0.2)
        await end_job(connection, "job_1", "Not wanted.")
        return state

    assert await RunStore(postgres).transaction(ending) == ("queued" if is_locked else None)
    assert claiming is not None
    await claiming
    rows = await postgres.fetch("select state from jobs")
    assert [row["state"] for row in rows] == ["cancelled"]


async def test_a_run_that_cannot_be_ended_keeps_no_other_from_its_end(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3, 4):
        body = "{}" if number % 2 else WISH  # nobody can show a run without a wish
        await begun(postgres, f"thread_{number}", number, body)
    late = "update runs set expires_at = now() - interval '1 second' where id = any($1::text[])"
    await postgres.execute(late, ["run_1", "run_2"])
    await postgres.execute("update jobs set state = 'error' where id in ('job_3', 'job_4')")
    ended: list[str] = []
    keeper = Keeper(RunStore(postgres), 3600, lambda status, _: ended.append(status))
    await keeper.keep()
    await keeper.keep()
    rows = await postgres.fetch("select id, status from runs order by id")
    assert [row["status"] for row in rows] == ["queued", "expired", "queued", "failed"]
    assert ended == ["expired", "failed"]
    assert len(caplog.records) == 2, "each is told of once, not every second"
    await postgres.execute("update runs set body = $1::json", WISH)
    await keeper.keep()
    assert ended == ["expired", "failed"] * 2, "its turn comes again"


async def test_many_runs_that_cannot_be_ended_do_not_keep_all_others(postgres: Postgres) -> None:
    """More of them than are looked at together."""
    insert = (
        "insert into runs (id, thread_id, app_id, user_name, assistant_id, body, metadata, job_id, "
        "created_at, expires_at, last_event) select 'bad_' || n, 'bad_' || n, 'app_a', null, 'a', "
        "'{}', '{}', 'job_bad_' || n, now(), now() + $1 * interval '1 hour', 0 "
        "from generate_series($2::integer, $3) as n"
    )
    threads = (
        "insert into threads (id, app_id, metadata) "
        "select 'bad_' || n, 'app_a', '{}' from generate_series(1, 240) as n"
    )
    await postgres.execute(threads)
    await postgres.execute(insert, -1, 1, 120)  # late
    await postgres.execute(insert, 1, 121, 240)  # without a job
    await begun(postgres, "thread_1", 1)
    await begun(postgres, "thread_2", 2)
    await postgres.execute("update runs set expires_at = now() where id = 'run_1'")
    await postgres.execute("update jobs set state = 'error' where id = 'job_2'")
    ended: list[str] = []
    keeper = Keeper(RunStore(postgres), 3600, lambda status, _: ended.append(status))
    for _ in range(20):  # each finds both with 83 of 100, and each of 242 fails in a millisecond
        await keeper.keep()
        if len(ended) == 2:
            break
    assert sorted(ended) == ["expired", "failed"]


async def test_what_has_gone_on_since_it_was_looked_at_does_not_end(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        await begun(postgres, f"thread_{number}", number)

    async def late(_: Connection) -> list[Over]:
        return [Over("run_1", "job_1", None, None)]  # it has its time anew

    async def abandoned(_: Connection) -> list[Over]:
        return [  # the first has another leg, the second's job was begun again
            Over("run_2", "job_0", None, None),
            Over("run_3", "job_3", "error", None),
        ]

    monkeypatch.setattr("api_server.services.runs.keeping.late", late)
    monkeypatch.setattr("api_server.services.runs.keeping.abandoned", abandoned)
    ended: list[str] = []
    await Keeper(RunStore(postgres), 3600, lambda status, _: ended.append(status)).keep()
    rows = await postgres.fetch("select status from runs union all select state from jobs")
    assert [row["status"] for row in rows] == ["queued"] * 6
    assert ended == []


async def test_a_run_ends_as_it_was_to_and_its_job_with_it(postgres: Postgres) -> None:
    """Whoever did it is gone."""
    for number in (1, 2, 3, 4):
        await begun(postgres, f"thread_{number}", number)
    await postgres.execute("update runs set status = 'cancelling' where id = 'run_1'")
    await postgres.execute("update runs set expires_at = now() where id in ('run_1', 'run_2')")
    await postgres.execute("update jobs set state = 'expired' where id = 'job_3'")
    keeper = Keeper(RunStore(postgres), 3600, lambda *_: None)
    await keeper.keep()
    await postgres.execute("update jobs set state = 'error' where id = 'job_4'")
    await keeper.keep()
    rows = await postgres.fetch(
        "select runs.status, jobs.state, can_resume from runs join jobs on jobs.id = job_id "
        "order by runs.id"
    )
    assert [tuple(row) for row in rows] == [
        ("cancelled", "cancelled", False),
        ("expired", "cancelled", True),
        ("expired", "expired", True),
        ("failed", "error", True),
    ]


class Counted(RunStore):
    """Counts how often rows of events are asked for."""

    asked = 0

    async def events(self, run_id: str, after: int) -> list[Event]:
        self.asked += 1
        return await super().events(run_id, after)


async def test_a_stream_that_begins_asks_for_rows_only_where_there_was_news(
    postgres: Postgres,
) -> None:
    run, store, hub = await begun(postgres), Counted(postgres), Hub()
    known, following = [Event(1, "thread.run.created", "{}")], Following(store, hub)

    async def more(number: int) -> None:
        row = "insert into run_events (run_id, n, event, data) values ($1, $2, 'x', '{}')"
        await postgres.execute(row, run.id, number)
        hub.told(run.id)

    async with contextlib.aclosing(following.events(run.id, 0, known)) as blocks:
        assert await anext(blocks) == known
        waiting = asyncio.ensure_future(anext(blocks))
        await asyncio.sleep(0.1)
        assert store.asked == 0, "nobody has said anything of it"
        await more(2)
        assert [event.n for event in await waiting] == [2]
    await more(3)  # between the creation and its stream
    for number in range(MOST_UNHEARD):  # of which one too many is remembered
        hub.told(f"another_{number}")
        if number == MOST_UNHEARD - 2:
            hub.told(run.id)  # news again: others are older now
    assert len(hub._unheard) == MOST_UNHEARD
    async with contextlib.aclosing(following.events(run.id, 0, known)) as blocks:
        assert await anext(blocks) == known
        async with asyncio.timeout(0.5):  # does not wait until it looks by itself
            assert [event.n for event in await anext(blocks)] == [2, 3]
