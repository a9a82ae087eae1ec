"""Segments on disk: written, sealed, adopted."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.ledger.adopting import adopt, depth, size_bytes
from api_server.services.ledger.ledger import Ledger
from api_server.services.ledger.rows import Reading
from api_server.services.ledger.spool import Spool
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore
from tests.local_stack import REPOSITORY
from tests.samples import samples
from tests.small_disk import CASES

WRITER = """
import sys
from pathlib import Path
from api_server.services.ledger.spool import Spool
spool = Spool(Path(sys.argv[1]))
spool.open()
spool.write(b'{"kind":"closed"}\\n', is_row=True)
spool.write(b'{"kind":"open"}\\n', is_row=False)
print("written", flush=True)
sys.stdin.read()
"""


@contextmanager
def writing_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has two lines in the spool and lives."""
    argv = [sys.executable, "-c", WRITER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path, segment_bytes=100)
    made.open()
    yield made
    made.close()


def files(spool: Spool) -> dict[str, bytes]:
    assert spool.own is not None
    return {path.name: path.read_bytes() for path in spool.own.iterdir() if path.name != "lock"}


def test_a_line_is_in_the_file_when_write_returns(spool: Spool) -> None:
    spool.write(b"one\n", is_row=True)
    spool.write(b"two\n", is_row=False)
    assert files(spool) == {"00000001.live": b"one\ntwo\n"}
    assert spool.rows == 1


def test_a_segment_is_sealed_with_its_rows_in_its_name(spool: Spool) -> None:
    assert spool.rotate([]) is None
    spool.write(b"one\n", is_row=True)
    segment = spool.rotate([])
    assert segment is not None
    assert (segment.path.name, segment.rows, segment.was_live) == ("00000001-1.rows", 1, False)
    spool.write(b"two\n", is_row=True)
    assert files(spool) == {"00000001-1.rows": b"one\n", "00000002.live": b"two\n"}
    spool.sync()
    spool.sync()


def test_open_requests_are_carried_into_the_next_segment(spool: Spool) -> None:
    spool.write(b"one\n", is_row=True)
    spool.rotate([b"open1\n", b"open2\n"])
    assert files(spool) == {"00000001-1.rows": b"one\n", "00000002.live": b"open1\nopen2\n"}
    assert not spool.is_full
    spool.write(b"x" * 100 + b"\n", is_row=True)
    assert spool.is_full


def test_a_folder_of_a_living_process_is_left_alone(spool: Spool) -> None:
    spool.write(b"one\n", is_row=True)
    with writing_process(spool.folder):
        assert adopt(spool.folder) == []


def test_what_a_killed_process_wrote_is_adopted_once(tmp_path: Path) -> None:
    with writing_process(tmp_path) as process:
        process.kill()
        process.wait()
        (legacy,) = adopt(tmp_path)
        assert adopt(tmp_path) == []
        (segment,) = legacy.segments
        assert (segment.rows, segment.was_live) == (1, True)
        assert segment.path.read_bytes() == b'{"kind":"closed"}\n{"kind":"open"}\n'
    legacy.release()
    (again,) = adopt(tmp_path)
    assert again.segments == legacy.segments
    segment.path.unlink()
    again.release()
    assert list(tmp_path.iterdir()) == []


def test_an_heir_takes_so_many_at_a_time(tmp_path: Path) -> None:
    for number in range(5):
        spool = Spool(tmp_path)
        spool.open()
        spool.write(b"%d\n" % number, is_row=True)
        spool.close()
    first = adopt(tmp_path, most=2)
    second = adopt(tmp_path, most=10)
    assert (len(first), len(second)) == (2, 3)
    assert adopt(tmp_path, most=0) == []
    written = [each.segments[0].path.read_bytes() for each in [*first, *second]]
    assert written == [b"%d\n" % number for number in range(5)]
    for each in [*first, *second]:
        each.release()


def test_an_empty_folder_goes_with_its_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.open()
    spool.close()
    assert list(tmp_path.iterdir()) == []
    assert not spool.is_open


def test_depth_counts_all_processes(spool: Spool) -> None:
    line = b'{"kind":"closed","at":1764000000000000}\n'
    spool.write(line, is_row=True)
    spool.rotate([])
    spool.write(line, is_row=True)
    found = depth(spool.folder)
    assert (found.rows, found.oldest_at) == (2, 1764000000.0)
    assert found.size_bytes == size_bytes(spool.folder) == 2 * len(line)
    assert depth(spool.folder / "none").rows == 0


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk(case: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.small_disk", case, str(tmp_path)]
    done = subprocess.run(
        argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def record() -> RequestRecord:
    made = RequestRecord("req_1", "POST", "/v1/chat/completions", route="/v1/chat/completions")
    made.app_id, made.app = "app_1", "shop"
    return made


def lost(metrics: Metrics) -> dict[str, float]:
    name = "llm_gateway_ledger_lost_total"
    return {key[1]: n for key, n in samples(metrics.render()).items() if key[0] == name and n}


def ledger_in(folder: Path, **options: int) -> tuple[Ledger, Metrics]:
    """Its database is not there, and is not asked: nothing is started."""
    metrics = Metrics((), Numbers())
    store = UsageStore(Postgres("postgresql://nobody@127.0.0.1:1/none"))
    return Ledger(folder, store, metrics, **options), metrics


async def test_beyond_its_bound_the_spool_keeps_what_it_has(tmp_path: Path) -> None:
    ledger, metrics = ledger_in(tmp_path, most_bytes=1000)
    await ledger.start()
    for _ in range(10):
        ledger.close(record())
    before = depth(tmp_path).rows
    async with asyncio.timeout(5):
        while not ledger._is_over_bound:
            await asyncio.sleep(0.05)
    ledger.close(record())
    assert lost(metrics) == {"spool_full": 1}
    assert depth(tmp_path).rows == before == 10
    await ledger.aclose()
    assert depth(tmp_path).rows == 10
    ledger.close(record())
    assert lost(metrics) == {"spool_full": 1, "closed": 1}


def test_open_and_close_write_once_each_and_only_for_apps(tmp_path: Path) -> None:
    ledger, _ = ledger_in(tmp_path)
    ledger._spool.open()
    one, stranger, refused, elsewhere = record(), record(), record(), record()
    stranger.app_id = None
    elsewhere.route = "/v1/models"
    for each in (one, stranger):
        ledger.open(each)
        ledger.open(each)
    for each in (one, stranger, refused, elsewhere):
        ledger.close(each)
        ledger.close(each)
    own = ledger._spool.own
    assert own is not None
    reading = Reading()
    reading.take((own / "00000001.live").read_bytes().split(b"\n"))
    assert len(reading.rows) == 2
    assert (own / "00000001.live").read_bytes().count(b"\n") == 3
    assert stranger.ledger_id is elsewhere.ledger_id is None
    ledger._spool.close()
