"""Everything of assistants and threads for one process."""

from dataclasses import dataclass

from api_server.inference.catalogue import Catalogue
from api_server.services.assistants.assistants import AssistantService
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.seams import StopRuns, VectorStores
from api_server.services.assistants.threads import ThreadService
from api_server.stores.assistants import AssistantStore
from api_server.stores.postgres import Connection, Postgres
from api_server.stores.threads import ThreadStore


@dataclass(frozen=True)
class Assistants:
    """What routes ask."""

    assistants: AssistantService
    threads: ThreadService
    resources: Resources


async def no_runs(_connection: Connection, _thread_id: str) -> None:
    """Where nothing does runs, there is nothing to stop."""


def furnish_assistants(
    postgres: Postgres,
    catalogue: Catalogue,
    *,
    vector_stores: VectorStores,
    stop_runs: StopRuns = no_runs,
) -> Assistants:
    resources = Resources(vector_stores)
    return Assistants(
        AssistantService(AssistantStore(postgres), catalogue, resources),
        ThreadService(ThreadStore(postgres), resources, stop_runs),
        resources,
    )
