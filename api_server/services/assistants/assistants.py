"""Assistants: made, read, changed, deleted."""

from typing import Any

import msgspec
from msgspec import UNSET

from api_server.errors import NotFoundError
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import AssistantChange, KeptAssistant, NewAssistant
from api_server.schemas.ids import new_id
from api_server.schemas.paging import Page, list_answer
from api_server.services.access.permissions import refuse_end_users
from api_server.services.assistants.objects import Json, assistant_object, to_json
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.rules import (
    check_id,
    check_resources,
    check_text_model,
    check_tools,
    read_kept,
)
from api_server.stores.assistants import Assistant, AssistantStore, insert_assistant
from api_server.stores.postgres import Connection

_NEW = msgspec.json.Decoder(NewAssistant)
_CHANGE = msgspec.json.Decoder(AssistantChange)
_KEPT = msgspec.json.Decoder(KeptAssistant)

CHANGE = "change assistants"


def kept_assistant(row: Assistant) -> KeptAssistant:
    """What an assistant is made of. Pure."""
    return _KEPT.decode(row.body)


class AssistantService:
    """One object for all requests. Assistants belong to an app: its users may only read and run
    them; `NotAllowedError` says so.
    """

    def __init__(self, store: AssistantStore, catalogue: Catalogue, resources: Resources) -> None:
        self._store = store
        self._catalogue = catalogue
        self._resources = resources

    async def create(self, caller: Caller, body: bytes) -> Json:
        """Raises `InvalidRequestError`, and what a chat with a wrong model would."""
        refuse_end_users(caller, CHANGE)
        asked = read_kept(body, _NEW)
        check_text_model(self._catalogue, caller, asked.model)
        check_tools(asked.tools)
        check_resources(asked.tool_resources, may_make=True)

        async def work(connection: Connection) -> Assistant:
            fields = _given(asked)
            fields["tool_resources"] = await self._resources.settle(
                connection, caller, asked.tool_resources
            )
            kept = to_json(KeptAssistant(**fields))
            return await insert_assistant(connection, caller.app.id, new_id("asst"), kept)

        return assistant_object(await self._store.postgres.transaction(work))

    async def retrieve(self, caller: Caller, assistant_id: str) -> Json:
        check_id("assistant", assistant_id)
        found = await self._store.find(caller.app.id, assistant_id)
        if found is None:
            raise NotFoundError.of("assistant", assistant_id)
        return assistant_object(found)

    async def modify(self, caller: Caller, assistant_id: str, body: bytes) -> Json:
        """Write what was sent; a null sets a field back to its default."""
        refuse_end_users(caller, CHANGE)
        asked = read_kept(body, _CHANGE)
        check_id("assistant", assistant_id)
        if asked.model is not UNSET:
            check_text_model(self._catalogue, caller, asked.model)
        if asked.tools is not UNSET:
            check_tools(asked.tools)
        resources = asked.tool_resources
        if resources is not UNSET:
            check_resources(resources, may_make=False)

        async def change(connection: Connection, now: Assistant) -> str:
            fields = _fields(kept_assistant(now)) | _fields(asked)
            if resources is not UNSET:
                fields["tool_resources"] = await self._resources.settle(
                    connection, caller, resources
                )
            given = {name: value for name, value in fields.items() if value is not None}
            return to_json(KeptAssistant(**given))

        changed = await self._store.change(caller.app.id, assistant_id, change)
        if changed is None:
            raise NotFoundError.of("assistant", assistant_id)
        return assistant_object(changed)

    async def delete(self, caller: Caller, assistant_id: str) -> Json:
        """Runs that were begun with it go on: they know what they were asked for."""
        refuse_end_users(caller, CHANGE)
        check_id("assistant", assistant_id)
        if not await self._store.delete(caller.app.id, assistant_id):
            raise NotFoundError.of("assistant", assistant_id)
        return {"id": assistant_id, "object": "assistant.deleted", "deleted": True}

    async def page(self, caller: Caller, page: Page) -> Json:
        found, has_more = await self._store.page(caller.app.id, page)
        return list_answer([assistant_object(each) for each in found], has_more=has_more)


def _fields(body: msgspec.Struct) -> dict[str, Any]:
    """Of a body, those that were sent."""
    fields = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not UNSET}


def _given(body: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in _fields(body).items() if value is not None}
