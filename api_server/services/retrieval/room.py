"""What runs in a process that takes files into vector stores."""

from collections.abc import Callable

from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.services.jobs.room import Besides
from api_server.services.jobs.rules import Rules as JobRules
from api_server.services.jobs.worker import Worker
from api_server.services.retrieval.embedding import Embedder
from api_server.services.retrieval.ingesting import Files, Ingests, Points, Rules
from api_server.stores.ingests import IngestStore
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Postgres


def furnish_ingests(
    postgres: Postgres,
    catalogue: Catalogue,
    embedder: Embedder,
    files: Files,
    points: Points,
    rules: Rules,
    job_rules: JobRules,
    *,
    slots: int,
    job_ended: Callable[[RequestRecord], None],
    vectors_ended: Callable[[RequestRecord], None],
) -> Besides:
    """`slots` 0: this process takes no files in. `job_rules` are those of the kind."""
    ingests = Ingests(
        *(IngestStore(postgres), files, points, embedder, catalogue, rules), ended=vectors_ended
    )
    worker = Worker(
        *(JobStore(postgres, "ingest"), ingests, job_rules, slots),
        ended=job_ended,
        observe=_observe_nothing,
    )
    return Besides([worker] if slots else [], [ingests.keep])


def _observe_nothing(_waited: float, _ran: float) -> None:
    """The figures of jobs are those of chats."""
