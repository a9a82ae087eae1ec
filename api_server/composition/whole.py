"""Builds the services of one process, everything but HTTP: one half of the composition root.

`compose` opens nothing; connections are made when they are needed, `Services.running` starts and
ends what works beside requests.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from api_server import __version__
from api_server.composition.kept import Asking, Kept, Slots, compose_kept
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.wire import Wire
from api_server.observability.degradation import Degradation
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.observability.vitals import Vitals
from api_server.schemas.apps import ANYONE, Caller
from api_server.services.access.access import Access
from api_server.services.access.authentication import (
    DEVELOPMENT,
    Authentication,
    NoAuthentication,
)
from api_server.services.access.directory import Directory
from api_server.services.access.managing import ManagedApps
from api_server.services.access.published_keys import PublishedKeys
from api_server.services.access.tokens import TokenRules, Tokens
from api_server.services.admission import Gate
from api_server.services.answer_cache.cache import AnswerCache
from api_server.services.completions import Completions
from api_server.services.embeddings import Embeddings
from api_server.services.entrance import Entrance
from api_server.services.health import Health
from api_server.services.jobs.owners import OpenToAll, Owners
from api_server.services.jobs.room import Jobs, furnish
from api_server.services.jobs.rules import Rules
from api_server.services.lane import Lane
from api_server.services.ledger.ledger import Ledger
from api_server.services.ledger.reports import Usage
from api_server.services.models import ManagedModels
from api_server.services.quotas.quotas import Quotas
from api_server.services.quotas.reservation import Reservation
from api_server.services.schema import Schema
from api_server.services.shares import Shares
from api_server.settings import Settings
from api_server.settings.store_layout import load_collections
from api_server.stores.answers import Answers
from api_server.stores.app_seeds import AppSeeds
from api_server.stores.apps import AppStore
from api_server.stores.limits import RedisLimits
from api_server.stores.objects import Objects
from api_server.stores.postgres import Postgres
from api_server.stores.published_keys import KeyServer
from api_server.stores.qdrant import Qdrant
from api_server.stores.redis import Redis
from api_server.stores.usage import UsageStore
from api_server.stores.vectors import Vectors

log = logging.getLogger("api_server.request")


@dataclass(frozen=True)
class Worker:
    """Which one of how many serving processes this is; `numbers` is where each of them counts."""

    index: int = 0
    count: int = 1
    numbers: Sequence[Numbers] = ()

    def share_of(self, total: int) -> int:
        """This worker's part of something that all of them share; the parts add up to it."""
        share, rest = divmod(total, self.count)
        return share + (self.index < rest)


ALONE = Worker()


@dataclass(frozen=True)
class Services:
    """What routes ask. None where it needs a database and there is none."""

    catalogue: Catalogue
    metrics: Metrics
    degradation: Degradation
    manager: LLMModelManager
    models: ManagedModels
    access: Access
    apps: ManagedApps | None
    quotas: Quotas
    ledger: Ledger | None
    usage: Usage | None
    completions: Completions
    embeddings: Embeddings
    jobs: Jobs | None
    kept: Kept
    health: Health
    stores: Sequence[Postgres | Redis | Objects | Qdrant]
    own_numbers: Numbers
    vitals: Vitals

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as this lasts, what works beside requests does. Seconds to begin, at most."""
        beside = (self.own_numbers.beat(), self.vitals.run(), self.vitals.watch_disk())
        tasks = [asyncio.create_task(each) for each in beside]
        try:
            await self.access.start()
            await self.quotas.start()
            await self.manager.start()
            if self.ledger is not None:
                await self.ledger.start()
            tasks.append(asyncio.create_task(self.manager.load_configured_models()))  # for minutes
            if self.jobs is not None:
                self.jobs.room.start()
            yield
        finally:  # a server that is hurried cancels us instead
            for task in tasks:
                task.cancel()
            if self.jobs is not None:
                await self.jobs.aclose()
            await self.kept.aclose()
            await self.manager.aclose()
            await self.quotas.aclose()
            if self.ledger is not None:
                await self.ledger.aclose()
            await self.access.aclose()
            for store in self.stores:
                await store.aclose()


def compose(
    settings: Settings,
    worker: Worker = ALONE,
    *,
    only_works: bool = False,
) -> Services:
    """The services for these settings. `only_works`: for a process that serves no clients, and
    does more jobs instead.
    """
    catalogue = Catalogue(settings.models())
    numbers = worker.numbers or [Numbers() for _ in range(worker.count)]
    metrics = Metrics((model.id for model in catalogue), numbers[worker.index], numbers)
    manager = LLMModelManager(catalogue)
    shares = Shares(worker.share_of, worker.count)
    lanes = {
        model.id: _lane(model, manager.wire(model.id), settings, worker, shares, metrics)
        for model in catalogue
    }
    postgres = Postgres(settings.postgres_url) if settings.postgres_url else None
    redis = Redis(settings.redis_url) if settings.redis_url else None
    objects = _objects(settings)
    vectors = _vectors(settings)
    qdrant = vectors.qdrant if vectors is not None else None
    stores = [store for store in (postgres, redis, objects, qdrant) if store is not None]
    degradation = Degradation([store.dependency.name for store in stores], metrics)
    for store in stores:
        store.dependency.notice = partial(degradation.changed, store.dependency.name)
    access = _access(settings, worker, postgres)
    ledger = _ledger(postgres, settings, metrics)
    quotas = Quotas(
        RedisLimits(redis) if redis is not None else None,
        metrics,
        processes=worker.count,
        index=worker.index,
        notice=shares.heard,
    )
    entrance = Entrance(quotas, ledger)
    completions = Completions(catalogue, lanes, entrance, _cache(redis, settings))
    embeddings = Embeddings(catalogue, lanes, entrance)
    asking = Asking(
        *(catalogue, completions, embeddings),
        admit=partial(_admit, quotas),
        job_ended=partial(_job_ended, metrics, ledger),
        vectors_ended=partial(_vectors_ended, metrics, ledger),
        run_ended=metrics.run_ended,
    )
    rules = _rules(settings)
    job_slots, slots = _slots(settings, only_works=only_works)
    kept = compose_kept(settings, postgres, objects, vectors, asking, rules, slots)
    jobs = None
    if postgres is not None:
        jobs = furnish(
            *(postgres, catalogue, completions, _owners(settings, access), rules, metrics),
            slots=job_slots,
            counts_for_metrics=worker.index == 0,
            ended=asking.job_ended,
            admit=asking.admit,
            besides=kept.besides,
        )
    health = Health(
        *(lanes, __version__),
        dependencies=[store.dependency for store in stores],
        access=access,
        tally=jobs.room.tally if jobs is not None else None,
    )
    return Services(
        catalogue=catalogue,
        metrics=metrics,
        degradation=degradation,
        manager=manager,
        models=ManagedModels(manager),
        access=access,
        apps=ManagedApps(AppStore(postgres), by="/admin") if postgres is not None else None,
        quotas=quotas,
        ledger=ledger,
        usage=Usage(UsageStore(postgres), settings.spool) if postgres is not None else None,
        completions=completions,
        embeddings=embeddings,
        jobs=jobs,
        kept=kept,
        health=health,
        stores=stores,
        own_numbers=numbers[worker.index],
        vitals=Vitals(
            metrics, settings.environment.data_dir, partial(_look, metrics, list(lanes.values()))
        ),
    )


def _access(settings: Settings, worker: Worker, postgres: Postgres | None) -> Access:
    """Who may come in. Without PostgreSQL nobody but the developer."""
    environment = settings.environment
    developer = DEVELOPMENT if environment.auth else ANYONE
    directory = Directory(
        AppStore(postgres) if postgres is not None else None,
        environment.data_dir / "apps.snapshot",
        built_in=[developer.app] if settings.is_development else [],
        listen=postgres.listen if postgres is not None else None,
        is_writer=worker.index == 0,
    )
    published = None
    if environment.jwt_jwks_url is not None:
        published = PublishedKeys(KeyServer(environment.jwt_jwks_url).fetch)
    secret = environment.jwt_secret
    rules = TokenRules(
        secret=secret.get_secret_value() if secret is not None else None,
        issuer=environment.jwt_issuer,
        audience=environment.jwt_audience,
        app=environment.jwt_app,
    )
    tokens = Tokens(rules, directory, published)
    authentication = Authentication(directory, tokens, development_key=settings.development_key)
    return Access(
        authentication if environment.auth else NoAuthentication(),
        directory,
        schema=Schema(settings.postgres_url) if settings.postgres_url else None,
        seeds=AppSeeds(postgres) if postgres is not None else None,
        seeded=settings.app_codes() if settings.stack.apps.seed is not None else None,
        published=published,
    )


def _ledger(postgres: Postgres | None, settings: Settings, metrics: Metrics) -> Ledger | None:
    """Without a database there is none."""
    if postgres is None:
        return None
    section = settings.stack.ledger
    return Ledger(
        settings.spool,
        UsageStore(postgres),
        metrics,
        most_bytes=section.spool_mib * 1024 * 1024,
        retention_days=section.retention_days,
    )


def _cache(redis: Redis | None, settings: Settings) -> AnswerCache:
    """Without Redis no answer is given twice."""
    section = settings.stack.cache
    ttl_seconds, max_app_bytes = section.ttl_seconds, section.max_app_bytes
    store = None
    if redis is not None:
        store = Answers(redis, ttl_seconds=ttl_seconds, max_app_bytes=max_app_bytes)
    return AnswerCache(store, max_entry_bytes=section.max_entry_bytes)


def _objects(settings: Settings) -> Objects | None:
    """Raises `ConfigurationError` where there is an address and are no keys."""
    keys = settings.object_store_keys
    if settings.environment.s3_url is None or keys is None:
        return None
    return Objects(settings.environment.s3_url, *keys)


def _owners(settings: Settings, access: Access) -> Owners:
    if not settings.environment.auth:
        return Owners(OpenToAll(), OpenToAll())
    return Owners(access.directory, access.authentication)


def _rules(settings: Settings) -> Rules:
    told = settings.jobs
    return Rules(
        queue_size=told.queue_size,
        timeout_seconds=told.timeout_seconds,
        max_attempts=told.max_attempts,
        lease_seconds=told.lease_seconds,
        retention_seconds=told.retention_days * 86_400,
        polling_needs_owner=told.polling_needs_owner,
        default_model=told.default_model,
        most_sockets=told.most_sockets,
        max_request_bytes=told.max_request_bytes,
    )


async def _admit(
    quotas: Quotas, caller: Caller, requests: Mapping[str, int]
) -> Sequence[Reservation]:
    """Count jobs that are accepted, by model; what they use is counted when they are done."""
    held: list[Reservation] = []
    try:
        for model, count in requests.items():
            held.append(await quotas.reserve(caller, model, 0, requests=count, places=0))
    except BaseException:
        for reservation in held:
            reservation.cancel()
        raise
    return held


def _job_ended(metrics: Metrics, ledger: Ledger | None, record: RequestRecord) -> None:
    if ledger is not None:
        ledger.close(record)
    metrics.request_ended(record)
    log.log(record.log_level, "job", extra=record.as_fields())


def _vectors_ended(metrics: Metrics, ledger: Ledger | None, record: RequestRecord) -> None:
    """One of the many requests of a file; their job has a line in the log."""
    if ledger is not None:
        ledger.close(record)
    metrics.request_ended(record)


def _vectors(settings: Settings) -> Vectors | None:
    """Without Qdrant there are no vector stores."""
    environment = settings.environment
    if environment.qdrant_url is None:
        return None
    key = environment.qdrant_api_key
    qdrant = Qdrant(environment.qdrant_url, key.get_secret_value() if key is not None else None)
    return Vectors(qdrant, load_collections().chunks)


def _slots(settings: Settings, *, only_works: bool) -> tuple[int, Slots]:
    """Of jobs, and of everything else."""
    runs, ingests, jobs = settings.stack.assistants, settings.stack.retrieval, settings.jobs
    if only_works:
        return jobs.worker_slots, Slots(runs.worker_runs, ingests.worker_ingests)
    return jobs.workers, Slots(runs.runs, ingests.ingests)


def _lane(
    model: Model,
    wire: Wire,
    settings: Settings,
    worker: Worker,
    shares: Shares,
    metrics: Metrics,
) -> Lane:
    """Processes share the places of an engine out among them: none knows of the others' requests.

    There is as much room as the sound replicas have; that of one when none is, for those who wait.
    A model in this process is its own, and no slot of it idles for the time of a round trip.
    """
    admission = settings.stack.admission
    queue_size = worker.share_of(admission.queue_size)
    if not isinstance(wire, ReplicaSet):
        metrics.slots(model.id, worker.share_of(model.slots))
        places = model.slots if model.is_in_process else model.slots + admission.surplus
        return Lane(model, wire, Gate(worker.share_of(places), queue_size), metrics)

    def capacity(replicas: int) -> int:
        return shares.of(max(1, replicas) * (model.slots + admission.surplus))

    gate = Gate(capacity(1), queue_size)

    def changed(replicas: ReplicaSet) -> None:
        gate.resize(capacity(replicas.sound))
        metrics.slots(model.id, shares.of(len(replicas.replicas) * model.slots))
        for each in replicas.replicas:
            metrics.replica_sound(model.id, each.name, is_sound=each.is_sound)

    changed(wire)
    shares.watch(partial(changed, wire))
    wire.notice = changed
    return Lane(model, wire, gate, metrics, wants_prefix=wire.wants_prefix)


def _look(metrics: Metrics, lanes: Sequence[Lane]) -> None:
    """What changes by itself, as time goes on."""
    now = asyncio.get_running_loop().time()
    for lane in lanes:
        gate = lane.gate
        metrics.lane(lane.model.id, busy=gate.running, oldest_seconds=gate.oldest_seconds())
        if isinstance(lane.wire, ReplicaSet):
            for each in lane.wire.replicas:
                metrics.breaker(lane.model.id, each.name, each.breaker.state(now))
