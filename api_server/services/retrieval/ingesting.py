"""Takes files into vector stores: the `Doer` of jobs of the kind `ingest`.

text -> chunks -> vectors -> points. Done again from anywhere, it ends with the same points: their
ids follow from the attempt and the number of the chunk. What nobody wants any more leaves nothing.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from api_server.errors import ApiError, DependencyDownError, TurnOverError, UnreadableFileError
from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.schemas.chunks import Attribute, Attributes, Chunk, Point
from api_server.services.jobs.trouble import PutOff, outcome_of
from api_server.services.retrieval.chunking import Piece, strategy_of
from api_server.services.retrieval.embedding import (
    Asking,
    Batches,
    Contexts,
    Embedder,
    Ended,
    Vector,
    batches_for,
    embedding_model,
)
from api_server.services.retrieval.extracting import Limits, read_text
from api_server.services.retrieval.pouring import Pouring
from api_server.services.retrieval.prefixes import prefixes_of
from api_server.stores.ingests import Attempt, Hold, IngestStore, Wanted
from api_server.stores.jobs import Taken

ROUTE = "/v1/vector_stores/{vector_store_id}/files"
MOST_BYTES = 512 * 1024 * 1024
"""Of a file, whatever of it is text."""

SETTLE_SECONDS = 2.0
OLD_SECONDS = 24 * 3600.0
"""A file that lies so long where files are read was left by a process that was killed."""

NAMESPACE = uuid.UUID("8d0f3c51-2f5b-4a43-9b7e-6a1d1c1f5c0e")
TRIES = 10

log = logging.getLogger(__name__)


class Files(Protocol):
    """`services.files.service.FileService`."""

    async def copy_to(self, app_id: str, file_id: str, path: Path, *, max_bytes: int) -> object:
        """Write the contents of a file there. Raises `ApiError`."""


class Points(Protocol):
    """`stores.vectors.Vectors`. Every method raises `ApiError`."""

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put chunks in, those of the same id in the place of what was there."""

    async def set_attributes(
        self, app_id: str, vector_store_id: str, file_id: str, attributes: Attributes
    ) -> None:
        """Give all chunks of a file these attributes instead of theirs."""


@dataclass(frozen=True)
class Rules:
    """What the operator settled. `model` None: the first that serves embeddings; `document_prefix`
    None: what the model wants. After `turn_seconds` a file gives its place to an app that waits and
    has none.
    """

    limits: Limits
    folder: Path
    model: str | None = None
    document_prefix: str | None = None
    turn_seconds: float = 30.0
    app_chunks: int = 1_000_000


class _Work(msgspec.Struct):
    """What the job holds."""

    vector_store_id: str
    file_id: str
    generation: str


class Ingests:
    """`ended` gets the record of every request for vectors."""

    route = ROUTE

    def __init__(
        self,
        store: IngestStore,
        files: Files,
        points: Points,
        embedder: Embedder,
        catalogue: Catalogue,
        rules: Rules,
        *,
        ended: Ended,
    ) -> None:
        self._store = store
        self._files = files
        self._points = points
        self._embedder = embedder
        self._catalogue = catalogue
        self._rules = rules
        self._ended = ended
        self._contexts = Contexts()
        self._left: set[Attempt] = set()

    async def do(self, job: Taken, record: RequestRecord) -> None:
        """Take one file in, or note why it cannot be. Raises `ApiError` to be put off."""
        work = msgspec.json.decode(job.chat, type=_Work)
        attempt = Attempt(job.app_id, work.vector_store_id, work.file_id, work.generation)
        hold = Hold(job.id, job.fence)
        is_kept = False
        try:
            is_kept = await self._take_in(job, attempt, hold)
        except _UnwantedError:
            pass
        except UnreadableFileError as exc:
            record.fail("error", exc.code, exc.message, logging.INFO)
            await self._store.fail(attempt, hold, exc.code, exc.message)
        except ApiError as exc:
            if isinstance(outcome_of(exc), PutOff):
                raise
            record.fail("error", exc.code, exc.message, logging.INFO)
            await self._store.fail(attempt, hold, "server_error", exc.message)
        finally:
            if not is_kept:
                await self._give_up(attempt)

    async def keep(self) -> None:
        """Until it is cancelled: end what its job ended, remove what was left behind."""
        await asyncio.to_thread(_sweep, self._rules.folder)
        while True:
            try:
                await self._store.settle()
                for attempt in list(self._left):
                    await self._give_up(attempt)
            except DependencyDownError:
                log.debug("files that were taken in cannot be settled now")
            except Exception:  # the top of a background loop
                log.exception("files that were taken in could not be settled")
            await asyncio.sleep(SETTLE_SECONDS)

    # inside

    async def _take_in(self, job: Taken, attempt: Attempt, hold: Hold) -> bool:
        """False where the file is not wanted any more."""
        wanted = await self._store.wanted(attempt)
        if wanted is None:
            return False
        if job.is_revoked:
            raise UnreadableFileError("server_error", "The app was revoked.")
        if wanted.chunks_of_others >= self._rules.app_chunks:
            raise UnreadableFileError("server_error", _full(self._rules.app_chunks))
        model = embedding_model(self._catalogue, self._rules.model)
        if model is None:
            raise UnreadableFileError("server_error", _no_model(self._rules.model))
        text = await self._text(attempt, wanted)
        prefix = prefixes_of(model.id, document=self._rules.document_prefix).document
        asking = Asking(self._embedder, model, job, self._ended, prefix=prefix)
        strategy = strategy_of(wanted.chunking)
        tokens = await self._contexts.most_tokens(model, strategy.tokens, asking)
        pouring = Pouring(
            *(text, strategy.within(tokens), wanted.chunks),
            embeds=asking,
            upsert=self._points.upsert,
            make_point=partial(_point, attempt, wanted, text),
            note=partial(self._note, attempt, hold),
        )
        await self._pour(attempt, pouring, batches_for(model))
        return await self._complete(attempt, hold, wanted, pouring)

    async def _pour(self, attempt: Attempt, pouring: Pouring, batches: Batches) -> None:
        """Raises `TurnOverError` where the app's turn is over; it goes on where it is."""
        turn = asyncio.create_task(self._give_way(attempt.app_id, pouring))
        try:
            await pouring.run(batches)
        finally:
            turn.cancel()
            if pouring.cut:
                log.warning(
                    "chunks were too long for the embedding engine and were cut",
                    extra={"file": attempt.file_id, "chunks": pouring.cut},
                )
        if not pouring.is_whole:
            raise TurnOverError("A file of another app comes first.", retry_after_seconds=1.0)

    async def _give_way(self, app_id: str, pouring: Pouring) -> None:
        while True:
            await asyncio.sleep(self._rules.turn_seconds)
            with contextlib.suppress(DependencyDownError):
                if await self._store.do_others_wait(app_id):
                    pouring.stop()
                    return

    async def _text(self, attempt: Attempt, wanted: Wanted) -> str:
        if wanted.bytes > MOST_BYTES:
            raise UnreadableFileError(
                "invalid_file",
                f"The file has {wanted.bytes} bytes; {MOST_BYTES} are the most here.",
            )
        folder = await asyncio.to_thread(_new_folder, self._rules.folder)
        try:
            path = folder / "file"
            await self._files.copy_to(attempt.app_id, attempt.file_id, path, max_bytes=MOST_BYTES)
            return await read_text(path, wanted.filename, wanted.content_type, self._rules.limits)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _complete(
        self, attempt: Attempt, hold: Hold, wanted: Wanted, pouring: Pouring
    ) -> bool:
        """Attributes may have been changed meanwhile: points that came later have the old ones."""
        attributes = wanted.attributes
        for _ in range(TRIES):
            if await self._store.complete(
                attempt,
                hold,
                chunks=pouring.chunks,
                usage_bytes=pouring.bytes,
                attributes=attributes,
            ):
                return True
            now = await self._store.wanted(attempt)
            if now is None or now.attributes == attributes:
                return False
            attributes = now.attributes
            await self._points.set_attributes(
                attempt.app_id, attempt.vector_store_id, attempt.file_id, _attributes(attributes)
            )
        return False

    async def _note(self, attempt: Attempt, hold: Hold, chunks: int) -> None:
        """That PostgreSQL is away is no reason to stop; that nobody wants the file any more is."""
        with contextlib.suppress(DependencyDownError):
            if not await self._store.reached(attempt, hold, chunks):
                raise _UnwantedError

    async def _give_up(self, attempt: Attempt) -> None:
        try:
            await self._store.give_up(attempt)
        except DependencyDownError:
            self._left.add(attempt)
        else:
            self._left.discard(attempt)


class _UnwantedError(Exception):
    """The file or its vector store is deleted, or another attempt took its place."""


def point_id(attempt: Attempt, number: int, part: int) -> str:
    """Of a chunk, or of a part of one that was too long for the engine. Pure."""
    name = "\n".join((*attempt.values()[1:], f"{number}.{part}" if part else str(number)))
    return str(uuid.uuid5(NAMESPACE, name))


def _point(
    attempt: Attempt,
    wanted: Wanted,
    text: str,
    number: int,
    part: int,
    piece: Piece,
    vector: Vector,
) -> Point:
    chunk = Chunk(
        app_id=attempt.app_id,
        vector_store_id=attempt.vector_store_id,
        file_id=attempt.file_id,
        generation=attempt.generation,
        n=number,
        text=text[piece.start : piece.end],
        start=piece.start,
        end=piece.end,
        filename=wanted.filename,
        attributes=_attributes(wanted.attributes),
    )
    return Point(point_id(attempt, number, part), vector, chunk)


def _attributes(text: str) -> dict[str, Attribute]:
    return msgspec.json.decode(text, type=dict[str, Attribute])


def _no_model(wanted: str | None) -> str:
    if wanted is None:
        return (
            "No model serves embeddings: start the stack with EMBEDDINGS=on, or configure a model "
            "with `serves: embeddings`."
        )
    return (
        f"No model {wanted!r} serves embeddings: correct retrieval.embedding_model, or start the "
        "stack with EMBEDDINGS=on."
    )


def _full(app_chunks: int) -> str:
    return (
        f"All vector stores of the app together have {app_chunks} chunks or more, which is the "
        "most. Take some files out, and add this one again."
    )


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="file-", dir=parent))


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed left."""
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - each.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(each, ignore_errors=True)
