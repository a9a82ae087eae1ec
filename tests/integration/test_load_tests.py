"""`python -m load_tests` as a process of its own, in front of engines whose answers are known."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent.monkey
import msgspec
import pytest

from load_tests.client import Client, TimeOuts
from load_tests.configuration import planned
from load_tests.results import Result
from load_tests.samples import Sample
from load_tests.scenarios import SCENARIOS
from load_tests.scenarios.ask import Ask, World
from tests.load_runs import PATIENT, RUN_SECONDS, Run, command, load
from tests.local_stack import REPOSITORY
from tests.replicas import Replica, running_gateway, running_replicas, settled, until


async def _worked(replicas: Sequence[Replica]) -> int:
    return sum([(await replica.counts()).finished for replica in replicas])


async def test_every_request_is_counted_once_by_all_who_count(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        before = (await gateway.metrics()), await _worked(replicas)
        options = ("--scenario", "short,chat=2,long", "--requests", "90", "--concurrency", "6")
        run = await load(gateway.url, tmp_path / "out", *options, *PATIENT)
        after = (await gateway.metrics()), await _worked(replicas)
    assert run.code == 0, run.output
    result, samples = run.result, run.samples
    total = result.total
    assert (total.count, total.ok, total.errors, total.completion_tokens) == (90, 90, {}, 450)
    assert sorted(sample.number for sample in samples) == list(range(90))
    assert Counter(sample.scenario for sample in samples) == {
        row.scenario: row.count for row in result.scenarios
    }
    assert sum(second.ok for second in result.timeline) == 90
    (process,) = result.processes
    for name, row in {row.scenario: row for row in result.scenarios}.items():
        entries = (name, f"{name} first token", f"{name} gap", f"{name} tokens")
        assert [process.locust[entry] for entry in entries] == [row.count] * 4

    def served(metrics: dict[tuple[str, ...], float]) -> float:
        name = "llm_gateway_requests_total"
        return sum(
            value
            for key, value in metrics.items()
            if key[0] == name and "/v1/chat/completions" in key
        )

    probes = result.probes
    assert probes == 2  # tokens a word, and the context
    assert served(after[0]) - served(before[0]) == 90 + probes
    assert after[1] - before[1] == 90 + probes
    for sample in samples:
        assert sample.intended == sample.sent
        assert sample.first_token is not None
        assert sample.sent < sample.first_token <= sample.ended
        assert sample.stages.keys() == {"queue", "engine", "gateway"}
        assert sample.request_id
    assert result.versions.keys() >= {"python", "locust", "gateway"}
    assert f"result: {tmp_path / 'out' / 'result.json'}" in run.output


async def test_an_open_loop_shows_the_queue_that_a_closed_one_hides(tmp_path: Path) -> None:
    """One slot, 0.1 s an answer: 20 arrivals a second are twice what it can."""
    async with running_replicas(1, slots=1) as replicas:
        await replicas[0].order(tokens=5, pause=0.02)
        async with running_gateway(tmp_path, {"fake": replicas}) as gateway:
            given = ("--scenario", "short", *PATIENT)
            closed = await load(
                gateway.url, tmp_path / "closed", *given, "--requests", "5", "--concurrency", "1"
            )
            opened = await load(
                gateway.url, tmp_path / "open", *given, "--rate", "20", "--duration", "1.5"
            )
    assert (closed.code, opened.code) == (0, 0), closed.output + opened.output
    slow, queued = closed.result.total.latency, opened.result.total.latency
    assert slow is not None
    assert queued is not None
    assert slow.p95 < 0.4
    assert queued.p95 > 4 * slow.p95
    # Arrivals went on as planned, whatever the answers did.
    plan = {number: intended for number, intended, _, _ in planned(opened.result.configuration)}
    assert {sample.number: sample.intended for sample in opened.samples} == pytest.approx(
        plan, abs=1e-6
    )
    # The queue only grows: who comes later waits longer.
    latencies = [sample.latency for sample in opened.samples]
    third = len(latencies) // 3
    assert max(latencies[:third]) < min(latencies[-third:])


async def test_two_processes_are_merged_exactly(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        options = ("--scenario", "short,medium", "--rate", "60", "--duration", "2")
        run = await load(gateway.url, tmp_path / "out", *options, "--processes", "2", *PATIENT)
    assert run.code == 0, run.output
    result, samples = run.result, run.samples
    one = list(planned(_with_processes(result, 1)))
    assert sorted((sample.number, sample.scenario) for sample in samples) == [
        (number, scenario) for number, _, scenario, _ in one
    ]
    assert [sample.intended for sample in samples] == sorted(sample.intended for sample in samples)
    assert [process.sent for process in result.processes] == [
        sum(sample.number % 2 == process for sample in samples) for process in (0, 1)
    ]
    assert result.total.ok == len(samples) == sum(process.sent for process in result.processes)


def _with_processes(result: Result, processes: int) -> Any:
    return msgspec.structs.replace(result.configuration, processes=processes)


async def test_a_run_of_cut_streams_is_a_run_of_errors(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        run = await _probe_then(replicas[0], gateway.url, tmp_path, "close_in_stream")
    total = run.result.total
    assert run.code == 1, run.output
    assert (total.count, total.ok) == (4, 0)
    ((found, count),) = total.errors.items()
    assert found.startswith("stream ")
    assert count == 4
    assert f"error: {found}: 4" in run.output


FAULTS = {
    "close_in_stream": "truncated",
    "reset_in_stream": "truncated",
    "end_without_done": "truncated",
    "close_after_done": "truncated",
    "half_event_then_stall": "timeout",
    "garbage_in_stream": "bad event",
    "error_event_in_stream": "stream 500",
    "error_event_first": "stream 500",
    "reset": "reset",
    "close_before_headers": "reset",
    "not_http": "bad http",
    "error_500": "500 500",
    "hang_after_headers": "timeout",
    "hang_before_headers": "timeout",
    "says_close": None,
    "pings_first": None,
    "done_in_content": None,
}


async def test_an_answer_that_is_not_whole_is_an_error() -> None:
    """The client alone, twice each: a connection that went bad is not used again."""
    ask = SCENARIOS["short"](World(model="fake"), 0)
    async with running_replicas(1) as replicas:
        client = Client(replicas[0].url, None, time.monotonic, TimeOuts(0.5, 0.5))
        for fault, kind in FAULTS.items():
            await replicas[0].order(fault=fault)
            for sample in await asyncio.to_thread(_twice, client, ask):
                assert (fault, sample.error) == (fault, kind)
                assert sample.outcome == ("ok" if kind is None else "error")
        for told, refused in (({"retry_after": 3}, True), ({}, True)):
            await replicas[0].order(fault="error_429", **told)
            for sample in await asyncio.to_thread(_twice, client, ask):
                assert (sample.outcome == "refused") == refused
                assert sample.retry_after == told.get("retry_after", 7)
        await replicas[0].order(fault="loading_503")  # which says not when to come again
        for sample in await asyncio.to_thread(_twice, client, ask):
            assert (sample.outcome, sample.error) == ("error", "503 503 without Retry-After")
        await replicas[0].order(fault="slams_the_door")
        for _ in range(3):
            assert (await asyncio.to_thread(client.measure, ask)).error is None
            await asyncio.sleep(0.1)  # then the kept connection has ended
        await asyncio.to_thread(client.close)
    # Nobody listens there any more.
    gone = (await asyncio.to_thread(_twice, client, ask))[0]
    assert (gone.outcome, gone.error) == ("error", "connect")


def _twice(client: Client, ask: Ask) -> list[Sample]:
    return [client.measure(ask), client.measure(ask)]


async def _probe_then(replica: Replica, url: str, folder: Path, fault: str) -> Run:
    """The load begins a moment after its first request, in which the engine turns bad."""
    options = ("--scenario", "short", "--requests", "4", "--concurrency", "4", "--timeout", "5")
    asked = (await replica.counts()).asked
    loading = asyncio.create_task(load(url, folder / "out", *options, *PATIENT))

    async def has_probed() -> bool:
        return (await replica.counts()).asked > asked

    await until(has_probed, RUN_SECONDS, "the probe comes")
    await replica.order(fault=fault, retry_after=1)
    return await loading


async def test_cancellers_free_their_slots(tmp_path: Path) -> None:
    async with (
        running_replicas(1, slots=4) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        await replicas[0].order(tokens=100, pause=0.005)
        options = ("--scenario", "cancellers", "--requests", "20", "--concurrency", "8")
        run = await load(gateway.url, tmp_path / "out", *options, *PATIENT)
        await settled(gateway, replicas)
        counts = await replicas[0].counts()
    assert run.code == 0, run.output
    assert run.result.total.cancelled == 20
    assert counts.cancelled == 20
    assert (counts.running, counts.queued) == (0, 0)


async def test_a_refused_request_comes_again_when_it_may(tmp_path: Path) -> None:
    async with running_replicas(1, slots=1) as replicas:
        models = [{"id": "fake", "replicas": [replicas[0].url], "slots": 1}]
        admission = {"surplus": 0, "queue_size": 1}
        async with running_gateway(tmp_path, {}, models=models, admission=admission) as gateway:
            await replicas[0].order(tokens=5, pause=0.04)
            options = ("--scenario", "short", "--requests", "4", "--rate", "50", "--retries", "20")
            run = await load(gateway.url, tmp_path / "out", *options, *PATIENT)
    total = run.result.total
    assert run.code == 0, run.output
    assert total.ok == 4
    assert total.refused == total.retried > 0
    assert total.count == 4 + total.retried
    by_number = Counter(sample.number for sample in run.samples if sample.outcome == "ok")
    assert by_number == dict.fromkeys(range(4), 1)
    for sample in run.samples:
        assert (sample.outcome == "refused") == (sample.retry_after is not None)


async def test_a_client_that_cannot_keep_up_is_not_valid(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        await replicas[0].order(first_pause=1)
        options = ("--scenario", "short", "--rate", "30", "--duration", "1")
        full = await load(
            gateway.url, tmp_path / "full", *options, "--max-in-flight", "5", *PATIENT
        )
    assert full.code == 3
    assert "NOT VALID" in full.output
    (reason,) = full.result.invalid_because
    (process,) = full.result.processes
    due = len(list(planned(full.result.configuration)))
    assert process.unsent == due - len(full.samples) > 0
    assert reason.startswith(f"{process.unsent} arrivals were not sent")


async def test_a_load_process_that_is_held_up_makes_the_run_not_valid(tmp_path: Path) -> None:
    async with running_replicas(1) as replicas:
        options = ("--scenario", "short", "--rate", "40", "--duration", "2")
        loading = asyncio.create_task(load(replicas[0].url, tmp_path / "out", *options))
        counts = replicas[0].counts

        async def is_under_way() -> bool:
            return (await counts()).asked > 5

        await until(is_under_way, RUN_SECONDS, "the load begins")
        pids = _load_processes(tmp_path)
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        run = await loading
    assert run.code == 3, run.output
    reasons = " ".join(run.result.invalid_because)
    assert "late (p99; at most 50 ms)" in reasons
    assert run.result.lag is not None
    assert run.result.lag.highest > 0.5
    # What waited for the client counts from when it should have been sent.
    assert max(sample.latency for sample in run.samples) > 0.5


def _load_processes(folder: Path) -> list[int]:
    """Of the run that writes into a folder: those whose parent has it on its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or b"load_tests.process" not in _line(entry.name):
                continue
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if str(folder).encode() in _line(parent):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _line(pid: str) -> bytes:
    return (Path("/proc") / pid / "cmdline").read_bytes()


async def test_wrong_options_and_a_gateway_that_is_not_there(tmp_path: Path) -> None:
    nowhere = await load("http://127.0.0.1:9", tmp_path / "a", "--requests", "1")
    assert nowhere.code == 4
    assert "gives no answer (connect)" in nowhere.output
    wrong = await load("http://127.0.0.1:9", tmp_path / "b", "--scenario", "shrot")
    assert wrong.code == 2
    assert "unknown scenario 'shrot'" in wrong.output
    assert not (tmp_path / "a").exists()


async def test_all_leaves_out_what_the_gateway_cannot_do(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        options = ("--scenario", "all", "--requests", "40", "--concurrency", "4", *PATIENT)
        run = await load(gateway.url, tmp_path / "out", *options)
    result = run.result
    assert "jobs" in result.left_out
    assert "jobs" not in {row.scenario for row in result.scenarios}
    # The fake engine's answers are neither JSON nor calls.
    assert run.code == 1
    assert result.total.errors.keys() == {"answer is no JSON", "no tool call"}


async def test_locust_runs_the_users_with_nothing_but_its_own_packages(tmp_path: Path) -> None:
    """As in its container: the folder alone is mounted, and our packages are not there."""
    shutil.copytree(REPOSITORY / "load_tests", tmp_path / "load_tests")
    code = (
        "import sys\n"
        "for name in ('msgspec', 'pydantic', 'yaml', 'httptools', 'httpx', 'api_server'):\n"
        "    sys.modules[name] = None\n"
        "from locust.main import main\n"
        "main()\n"
    )
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        files = [str(tmp_path / "load_tests" / name) for name in ("locustfile", "open_loop")]
        options = ("-f", ",".join(f"{file}.py" for file in files), "--host", gateway.url)
        given = ("--headless", "-u", "4", "-r", "4", "-t", "4s", "--json", "--skip-log")
        users = ("Short", "Chat", "Arrivals")
        status, output = await command("-c", code, *options, *given, *users, cwd=tmp_path)
    assert status == 0, output
    entries = json.loads(output[output.index("[") :])
    names = {entry["name"]: entry for entry in entries}
    assert names.keys() >= {"short", "short first token", "short gap", "short tokens", "chat"}
    assert all(entry["num_requests"] > 0 and not entry["num_failures"] for entry in entries)


def test_this_process_is_not_under_gevent() -> None:
    import load_tests.running  # noqa: F401, PLC0415

    assert not gevent.monkey.saved
