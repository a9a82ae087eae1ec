"""Runs and their steps as clients read them."""

import msgspec
from msgspec import UNSET

from api_server.errors import NotFoundError
from api_server.schemas.apps import Caller
from api_server.schemas.paging import Page, list_answer
from api_server.schemas.runs import RunChange
from api_server.services.assistants.rules import check_id, read_kept
from api_server.services.assistants.threads import ThreadService
from api_server.services.runs.objects import Json, run_object, step_object, to_json
from api_server.stores.run_rows import Run
from api_server.stores.runs import RunStore

_CHANGE = msgspec.json.Decoder(RunChange)


class RunReader:
    """One object for all requests. Every method raises `NotFoundError`."""

    def __init__(self, store: RunStore, threads: ThreadService) -> None:
        self._store = store
        self._threads = threads

    async def retrieve(self, caller: Caller, thread_id: str, run_id: str) -> Json:
        return run_object(await self.find(caller, thread_id, run_id))

    async def find(self, caller: Caller, thread_id: str, run_id: str) -> Run:
        """One run that the caller may see."""
        check_id("thread", thread_id)
        check_id("run", run_id)
        run = await self._store.find(caller.app.id, caller.user, thread_id, run_id)
        if run is None:
            raise NotFoundError.of("run", run_id)
        return run

    async def listed(self, caller: Caller, thread_id: str, page: Page) -> Json:
        thread = await self._threads.find(caller, thread_id)
        runs, has_more = await self._store.listed(thread.app_id, thread.id, page)
        return list_answer([run_object(run) for run in runs], has_more=has_more)

    async def modify(self, caller: Caller, thread_id: str, run_id: str, body: bytes) -> Json:
        asked = read_kept(body, _CHANGE)
        await self.find(caller, thread_id, run_id)
        if asked.metadata is not UNSET:
            metadata = to_json(asked.metadata or {})
            ids = (caller.app.id, caller.user, thread_id, run_id)
            if not await self._store.modify(*ids, metadata):
                raise NotFoundError.of("run", run_id)
        return await self.retrieve(caller, thread_id, run_id)

    async def steps(
        self, caller: Caller, thread_id: str, run_id: str, page: Page, *, with_results: bool
    ) -> Json:
        run = await self.find(caller, thread_id, run_id)
        steps, has_more = await self._store.steps(run.app_id, run.id, page)
        shown = [step_object(step, with_results=with_results) for step in steps]
        return list_answer(shown, has_more=has_more)

    async def step(
        self, caller: Caller, thread_id: str, run_id: str, step_id: str, *, with_results: bool
    ) -> Json:
        run = await self.find(caller, thread_id, run_id)
        check_id("run step", step_id)
        step = await self._store.step(run.app_id, run.id, step_id)
        if step is None:
            raise NotFoundError.of("run step", step_id)
        return step_object(step, with_results=with_results)
