"""Everything of vector stores for one process."""

from dataclasses import dataclass

from api_server.services.jobs.room import Besides
from api_server.services.retrieval.embedding import Embedder, Ended
from api_server.services.vector_stores.adding import Adding
from api_server.services.vector_stores.files import StoreFileService
from api_server.services.vector_stores.questions import Questions
from api_server.services.vector_stores.searching import Searching
from api_server.services.vector_stores.service import VectorStoreService
from api_server.services.vector_stores.sweeping import Sweeping
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Postgres
from api_server.stores.vector_store_files import VectorStoreFileStore
from api_server.stores.vector_stores import VectorStoreStore
from api_server.stores.vectors import Vectors


@dataclass(frozen=True)
class VectorStores:
    """What routes ask (`stores`, `files`), what threads and runs do (`adding`, `searching`), and
    what runs beside (`besides`). `model` is the embedding model's id.
    """

    stores: VectorStoreService
    files: StoreFileService
    adding: Adding
    searching: Searching
    vectors: Vectors
    model: str
    besides: Besides


def furnish_vector_stores(
    postgres: Postgres,
    vectors: Vectors,
    embedder: Embedder,
    model: str,
    *,
    query_prefix: str,
    ingest_seconds: float,
    app_chunks: int,
    ended: Ended,
) -> VectorStores:
    """`ended` gets the record of each question that was turned into a vector; `query_prefix` comes
    before each.
    """
    stores, files = VectorStoreStore(postgres), VectorStoreFileStore(postgres)
    jobs = JobStore(postgres, "ingest")
    adding = Adding(jobs, model, ingest_seconds=ingest_seconds, app_chunks=app_chunks)
    searching = Searching(stores, files, vectors, Questions(embedder, model, ended, query_prefix))
    sweeping = Sweeping(stores, vectors, jobs)
    return VectorStores(
        stores=VectorStoreService(stores, adding, searching),
        files=StoreFileService(files, adding, jobs, vectors),
        adding=adding,
        searching=searching,
        vectors=vectors,
        model=model,
        besides=Besides(loops=(sweeping.sweep_for_ever, sweeping.expire_for_ever)),
    )
