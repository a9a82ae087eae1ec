"""Takes in what was exported from OpenAI's API: files, assistants, threads with their messages.

What is there already stays as it is, so that an import can be done again. `docs/assistants.md`
has the format.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from api_server.errors import BodyTooLargeError, InvalidRequestError
from api_server.schemas.dumps import (
    Dump,
    DumpedAssistant,
    DumpedFile,
    DumpedThread,
    Named,
)
from api_server.services.assistants.dumps import (
    Here,
    Wanted,
    assistant_body,
    moment,
    new_message,
    new_thread,
    read_messages,
    wanted_of,
)
from api_server.services.assistants.rules import read_kept
from api_server.services.reading import read_json
from api_server.stores.imports import Fate, add_assistant, add_thread
from api_server.stores.owned import missing_files, missing_vector_stores
from api_server.stores.postgres import Connection, Postgres

_DUMP = msgspec.json.Decoder(Dump)
_NAMED = msgspec.json.Decoder(Named)
_ASSISTANT = msgspec.json.Decoder(DumpedAssistant)
_THREAD = msgspec.json.Decoder(DumpedThread)
_FILE = msgspec.json.Decoder(DumpedFile)

CHUNK_BYTES = 1024 * 1024

KeepFile = Callable[[str, DumpedFile, AsyncIterator[bytes]], Awaitable[object]]
"""Keeps a file for an app: its id, what is said of the file, its content.

Raises `InvalidRequestError` or `BodyTooLargeError` where it cannot be.
"""


@dataclass
class Report:
    """What became of it: counts by kind of object and fate; sentences on what was not taken."""

    counts: dict[str, dict[Fate, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, kind: str, fate: Fate, n: int = 1) -> None:
        fates = self.counts.setdefault(kind, {"taken": 0, "known": 0, "refused": 0})
        fates[fate] += n


class Importer:
    """For one app. `keep_file` None: there is no object store. `folder`: where the dump lies.

    `models` are those that serve text; `model` takes the place of others.
    """

    def __init__(
        self,
        postgres: Postgres,
        app_id: str,
        folder: Path,
        models: frozenset[str],
        *,
        model: str | None = None,
        keep_file: KeepFile | None = None,
    ) -> None:
        self._postgres = postgres
        self._app_id = app_id
        self._folder = folder
        self._models = models
        self._model = model
        self._keep_file = keep_file
        self.report = Report()

    async def take(self, content: bytes) -> Report:
        """Raises `InvalidRequestError` where it is no dump at all, `DependencyDownError`."""
        try:
            dump = read_json(content, _DUMP)
        except InvalidRequestError as exc:
            raise InvalidRequestError(f"This file is no dump of assistants: {exc.message}") from exc
        for kind, objects, take in (
            ("file", dump.files, self._take_file),
            ("assistant", dump.assistants, self._take_assistant),
            ("thread", dump.threads, self._take_thread),
        ):
            for raw in objects:
                await self._take_one(kind, bytes(raw), take)
        return self.report

    async def _take_one(
        self, kind: str, raw: bytes, take: Callable[[bytes], Awaitable[None]]
    ) -> None:
        try:
            await take(raw)
        except (InvalidRequestError, BodyTooLargeError) as exc:
            self.report.count(kind, "refused")
            self._say(f"{kind} {_id_of(raw)}", f"was not taken: {exc.message}")

    async def _take_file(self, raw: bytes) -> None:
        dumped = read_kept(raw, _FILE)
        if not (await self._missing(Wanted(files={dumped.id}))).files:
            self.report.count("file", "known")
            return
        if self._keep_file is None:
            raise InvalidRequestError("there is no object store to keep its content in")
        path = (self._folder / dumped.path).resolve()
        if "\0" in dumped.path or not path.is_relative_to(self._folder.resolve()):
            raise InvalidRequestError("its path leads out of the folder of the dump")
        if not path.is_file():
            raise InvalidRequestError(f"there is no {dumped.path!r} beside the dump")
        await self._keep_file(self._app_id, dumped, _content_of(path))
        self.report.count("file", "taken")

    async def _take_assistant(self, raw: bytes) -> None:
        dumped = read_kept(raw, _ASSISTANT)
        here = await self._here(wanted_of(dumped.tool_resources, ()))
        said: list[str] = []
        body = assistant_body(dumped, here, said.append)
        at = moment(dumped.created_at)
        fate = await add_assistant(self._postgres, self._app_id, dumped.id, at, body)
        self._ended("assistant", dumped.id, fate, said)

    async def _take_thread(self, raw: bytes) -> None:
        dumped = read_kept(raw, _THREAD)
        said: list[str] = []
        messages = read_messages(dumped, said.append)
        here = await self._here(wanted_of(dumped.tool_resources, messages))
        thread = new_thread(dumped, self._app_id, here, said.append)
        kept = [new_message(each, thread.id, self._app_id, here, said.append) for each in messages]
        fates = await add_thread(self._postgres, thread, kept)
        if fates.thread != "refused":
            self.report.count("message", "taken", len(fates.taken))
            self.report.count("message", "refused", len(fates.refused))
            known = len(kept) - len(fates.taken) - len(fates.refused)
            self.report.count("message", "known", known)
            said += [f"message {each}: {TAKEN}" for each in sorted(fates.refused)]
        self._ended("thread", thread.id, fates.thread, said)

    def _ended(self, kind: str, id_: str, fate: Fate, said: list[str]) -> None:
        self.report.count(kind, fate)
        if fate == "refused":
            self._say(f"{kind} {id_}", f"was not taken: {TAKEN}")
            return
        for each in said:
            self._say(f"{kind} {id_}", each)

    def _say(self, of: str, what: str) -> None:
        self.report.problems.append(f"{of}: {what}")

    async def _here(self, wanted: Wanted) -> Here:
        missing = await self._missing(wanted)
        return Here(
            self._models,
            wanted.files - missing.files,
            wanted.vector_stores - missing.vector_stores,
            self._model,
        )

    async def _missing(self, wanted: Wanted) -> Wanted:
        async def work(connection: Connection) -> Wanted:
            return Wanted(
                set(await missing_files(connection, self._app_id, None, sorted(wanted.files))),
                set(
                    await missing_vector_stores(
                        connection, self._app_id, None, sorted(wanted.vector_stores)
                    )
                ),
            )

        return await self._postgres.use(work)


TAKEN = "this id is taken by something else"


def _id_of(raw: bytes) -> str:
    try:
        return read_json(raw, _NAMED).id[:128]
    except InvalidRequestError:
        return "without an id"


async def _content_of(path: Path) -> AsyncIterator[bytes]:
    """In pieces; a local disk is waited for."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
