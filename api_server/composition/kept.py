"""Builds the services of what is kept: files, vector stores, assistants, runs, conversations."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.services.assistants.room import Assistants, furnish_assistants
from api_server.services.assistants.seams import NoVectorStores
from api_server.services.completions import Completions
from api_server.services.conversations.service import ConversationService
from api_server.services.embeddings import Embeddings
from api_server.services.files.room import Files, furnish_files
from api_server.services.files.service import FileRules
from api_server.services.functions.actions import Actions
from api_server.services.functions.hosts import Function, FunctionHosts
from api_server.services.functions.tool import operators_functions
from api_server.services.jobs.room import NOTHING_ELSE, Besides, together
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.service import Admit
from api_server.services.retrieval.embedding import embedding_model
from api_server.services.retrieval.extracting import Limits
from api_server.services.retrieval.ingesting import Rules as IngestRules
from api_server.services.retrieval.prefixes import prefixes_of
from api_server.services.retrieval.room import furnish_ingests
from api_server.services.runs.endings import Ended
from api_server.services.runs.outside import stop_runs
from api_server.services.runs.room import RunRules, Runs, furnish_runs
from api_server.services.runs.tools import ServerTool, Tools
from api_server.services.vector_stores.file_search import FileSearchTool
from api_server.services.vector_stores.room import VectorStores, furnish_vector_stores
from api_server.settings import Settings, functions_environment
from api_server.settings.store_layout import load_buckets
from api_server.stores.actions import ActionStore
from api_server.stores.assistants import AssistantStore
from api_server.stores.objects import Objects
from api_server.stores.postgres import Postgres
from api_server.stores.threads import ThreadStore
from api_server.stores.vectors import Vectors

NO_POSTGRES = "Vector stores need PostgreSQL: set POSTGRES_URL."
NO_QDRANT = "Vector stores need Qdrant: set QDRANT_URL (and QDRANT_API_KEY)."
NO_EMBEDDINGS = (
    "Vector stores need a model for embeddings: start with EMBEDDINGS=on, or add one that serves "
    "embeddings to the models (retrieval.embedding_model names one of several)."
)


@dataclass(frozen=True)
class Asking:
    """How models are asked beside requests, and who is told of each that was."""

    catalogue: Catalogue
    completions: Completions
    embeddings: Embeddings
    admit: Admit
    job_ended: Callable[[RequestRecord], None]
    vectors_ended: Callable[[RequestRecord], None]
    run_ended: Ended


@dataclass(frozen=True)
class Slots:
    """How many of each kind this process does at once."""

    runs: int
    ingests: int


@dataclass(frozen=True)
class Kept:
    """What routes ask; None where it needs a store and there is none.

    `vector_stores` may be what is not set up instead, and what to do about it.
    """

    files: Files | None = None
    assistants: Assistants | None = None
    runs: Runs | None = None
    vector_stores: VectorStores | tuple[str, str] = ("PostgreSQL", NO_POSTGRES)
    conversations: ConversationService | None = None
    actions: Actions | None = None
    functions: FunctionHosts | None = None
    besides: Besides = field(default=NOTHING_ELSE)

    async def aclose(self) -> None:
        """After those who do runs have come to their end."""
        if self.runs is not None:
            await self.runs.aclose()
        if self.functions is not None:
            await self.functions.aclose()


def compose_kept(
    settings: Settings,
    postgres: Postgres | None,
    objects: Objects | None,
    vectors: Vectors | None,
    asking: Asking,
    job_rules: Rules,
    slots: Slots,
) -> Kept:
    """`job_rules` are those of the jobs API; other kinds differ in their times."""
    if postgres is None:
        return Kept()
    files = _files(postgres, objects, settings)
    vector_stores = _vector_stores(postgres, vectors, asking, settings)
    found = vector_stores if isinstance(vector_stores, VectorStores) else None
    assistants = furnish_assistants(
        *(postgres, asking.catalogue),
        vector_stores=(
            vector_stores.adding
            if isinstance(vector_stores, VectorStores)
            else NoVectorStores(*vector_stores)
        ),
        stop_runs=stop_runs,
    )
    hosts = _functions(settings)
    runs, besides = furnish_runs(
        *(postgres, asking.catalogue, asking.completions),
        *(assistants.threads, assistants.resources, _tools(hosts, found)),
        *(job_rules, _run_rules(settings, slots.runs)),
        ended=asking.job_ended,
        run_ended=asking.run_ended,
        admit=asking.admit,
    )
    ingests = NOTHING_ELSE
    if files is not None and vectors is not None:
        ingests = furnish_ingests(
            *(postgres, asking.catalogue, asking.embeddings, files.service, vectors),
            *_ingest_rules(settings, job_rules),
            slots=slots.ingests,
            job_ended=asking.job_ended,
            vectors_ended=asking.vectors_ended,
        )
    return Kept(
        files=files,
        assistants=assistants,
        runs=runs,
        vector_stores=vector_stores,
        conversations=ConversationService(
            *(runs.service, runs.following, ThreadStore(postgres), AssistantStore(postgres)),
            *(asking.catalogue, hosts),
        ),
        actions=Actions(ActionStore(postgres)),
        functions=hosts,
        besides=together(
            besides,
            files.besides if files is not None else NOTHING_ELSE,
            ingests,
            found.besides if found is not None else NOTHING_ELSE,
        ),
    )


def _files(postgres: Postgres, objects: Objects | None, settings: Settings) -> Files | None:
    """They need an object store too."""
    if objects is None:
        return None
    rules = FileRules(**settings.stack.files.model_dump())
    return furnish_files(postgres, objects, load_buckets().files, rules)


def _vector_stores(
    postgres: Postgres, vectors: Vectors | None, asking: Asking, settings: Settings
) -> VectorStores | tuple[str, str]:
    """They need a vector database and a model for embeddings."""
    told = settings.stack.retrieval
    model = embedding_model(asking.catalogue, told.embedding_model)
    if model is None:
        return "an embedding model", NO_EMBEDDINGS
    if vectors is None:
        return "Qdrant", NO_QDRANT
    return furnish_vector_stores(
        *(postgres, vectors, asking.embeddings, model.id),
        query_prefix=prefixes_of(model.id, query=told.query_prefix).query,
        ingest_seconds=told.ingest_seconds,
        app_chunks=told.app_chunks,
        ended=asking.vectors_ended,
    )


def _functions(settings: Settings) -> FunctionHosts:
    """The operator's; they see the environment but for the secrets of the stack."""
    told = settings.stack.assistants.functions
    functions = {name: Function(each.call, each.seconds) for name, each in told.items()}
    return FunctionHosts(functions, functions_environment())


def _tools(hosts: FunctionHosts, vector_stores: VectorStores | None) -> Tools:
    """What runs call here."""
    built_in: dict[str, ServerTool] = {}
    if vector_stores is not None:
        built_in["file_search"] = FileSearchTool(vector_stores.searching)
    return Tools(operators_functions(hosts), built_in)


def _run_rules(settings: Settings, slots: int) -> RunRules:
    told = settings.stack.assistants
    return RunRules(
        slots=slots,
        run_seconds=told.run_seconds,
        max_rounds=told.max_rounds,
        event_seconds=told.event_days * 86_400,
    )


def _ingest_rules(settings: Settings, job_rules: Rules) -> tuple[IngestRules, Rules]:
    """What the doer is told, and its worker."""
    told = settings.stack.retrieval
    limits = Limits(told.extract_seconds, told.extract_mib, told.max_text_bytes)
    folder = settings.environment.data_dir / "ingest"
    rules = replace(job_rules, timeout_seconds=told.ingest_seconds)
    found = IngestRules(
        *(limits, folder, told.embedding_model, told.document_prefix), app_chunks=told.app_chunks
    )
    return found, rules
