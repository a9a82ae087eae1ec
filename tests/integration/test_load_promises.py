"""`--slo` and `--find-capacity` in front of engines whose speed is known."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from load_tests.__main__ import INTERRUPTED
from load_tests.gate import Verdict
from load_tests.report.writing import PAGE, VERDICTS, read_capacity
from tests.load_runs import PATIENT, command
from tests.local_stack import REPOSITORY
from tests.replicas import running_gateway, running_replicas

pytestmark = pytest.mark.alone

RUN_SECONDS = 100


async def _load(url: str, folder: Path, *options: str) -> tuple[int, str]:
    given = ("--host", url, "--out", str(folder), *PATIENT)
    return await command("-m", "load_tests", *given, *options, seconds=RUN_SECONDS)


async def test_the_exit_code_says_whether_the_promise_holds(tmp_path: Path) -> None:
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        fast, said = await _load(
            gateway.url, tmp_path / "fast", "--slo", "--rate", "140", "--duration", "8"
        )
        assert fast == 0, said
        assert "The promise for typical holds at 140 requests per second." in said
        few, said = await _load(
            gateway.url, tmp_path / "few", "--slo", "--rate", "20", "--duration", "3"
        )
        assert few == 1, said
        assert "cannot tell" in said
        await replicas[0].order(tokens=5, pause=0.4)
        slow, said = await _load(
            gateway.url, tmp_path / "slow", "--slo", "--rate", "15", "--duration", "4"
        )
        assert slow == 1, said
        assert "does not hold" in said
        nothing, said = await _load(gateway.url, tmp_path / "no", "--slo", "--workload", "none")
        assert nothing == 2, said
    away, said = await _load(gateway.url, tmp_path / "away", "--slo", "--rate", "15")
    assert away == 2, said
    for name, state in (("fast", "holds"), ("few", "cannot tell"), ("slow", "fails")):
        assert (tmp_path / name / PAGE).stat().st_size > 10_000
        verdicts = msgspec.json.decode(
            (tmp_path / name / VERDICTS).read_bytes(), type=list[Verdict]
        )
        assert [verdict.state for verdict in verdicts] == [state]


@pytest.mark.parametrize("steps", [0, 1])
async def test_of_an_interrupted_search_its_finished_steps_are_kept(
    tmp_path: Path, steps: int
) -> None:
    folder = tmp_path / "knee"
    options = ("--find-capacity", "--rate", "8", "--search-seconds", "60", *PATIENT)
    async with (
        running_replicas(1, slots=4) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "load_tests", "--host", gateway.url, "--out", str(folder)),
            *options,
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            if steps:
                await process.stdout.readline()
            while (await replicas[0].counts()).asked < 8 or not folder.exists():
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGINT)
            await process.communicate()
    assert process.returncode == INTERRUPTED
    if not steps:
        assert not folder.exists()
        return
    capacity = read_capacity(folder)
    assert (len(capacity.steps), capacity.ended) == (1, "interrupted")
    assert (folder / PAGE).exists()


async def test_a_knee_is_found_where_it_is(tmp_path: Path) -> None:
    """Four slots whose answers take a quarter of a second: 16 a second at the most."""
    async with running_replicas(1, slots=4) as replicas:
        await replicas[0].order(tokens=5, pause=0.05)
        async with running_gateway(tmp_path, {"fake": replicas}) as gateway:
            options = ("--find-capacity", "--rate", "8", "--search-seconds", "20")
            code, said = await _load(gateway.url, tmp_path / "knee", *options)
    assert code == 0, said
    capacity = read_capacity(tmp_path / "knee")
    assert capacity.rate is not None
    assert capacity.above is not None
    assert 8 <= capacity.rate < capacity.above <= 32
    assert "The knee is at" in said
