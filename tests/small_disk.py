"""What the ledger does when the disk is full, played in a process of its own.

`python -m tests.small_disk CASE FOLDER`: no file of the process may grow beyond 4 kB. In the test's
own process that would be true of its output as well.
"""

import logging
import os
import resource
import sys
from pathlib import Path

import pytest

from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.ledger.ledger import Ledger
from api_server.services.ledger.spool import Spool
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore
from tests.samples import samples

MOST_BYTES = 4096


def a_line_is_cut(folder: Path) -> None:
    """It does not spoil the next one."""
    spool = Spool(folder)
    spool.open()
    spool.write(b"x" * 4000 + b"\n", is_row=True)
    with pytest.raises(OSError, match="only a part"):
        spool.write(b"y" * 200 + b"\n", is_row=True)
    assert spool.own is not None
    live = spool.own / "00000001.live"
    assert live.stat().st_size == MOST_BYTES
    os.truncate(live, 4050)  # there is room again
    spool.write(b"z\n", is_row=True)
    assert live.read_bytes().split(b"\n") == [b"x" * 4000, b"y" * 49, b"z", b""]
    spool.close()


def requests_go_on(folder: Path) -> None:
    """Lost rows are counted, and said once."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger().addHandler(Listener())
    metrics = Metrics((), Numbers())
    store = UsageStore(Postgres("postgresql://nobody@127.0.0.1:1/none"))
    ledger = Ledger(folder, store, metrics)
    ledger._spool.open()
    for _ in range(100):
        record = RequestRecord(
            "req_1", "POST", "/v1/chat/completions", route="/v1/chat/completions"
        )
        record.app_id, record.app = "app_1", "shop"
        ledger.open(record)
        ledger.close(record)
    assert samples(metrics.render())["llm_gateway_ledger_lost_total", "disk"] > 80
    assert said == ["rows of the ledger are lost"], said
    ledger._spool.close()


CASES = {case.__name__: case for case in (a_line_is_cut, requests_go_on)}

if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, hard))  # Python ignores SIGXFSZ
    CASES[sys.argv[1]](Path(sys.argv[2]))
