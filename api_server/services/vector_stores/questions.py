"""Turns questions into vectors, in the name of who asks."""

from collections.abc import Sequence
from dataclasses import dataclass

from api_server.observability.record import RequestRecord, new_request_id
from api_server.schemas.apps import Caller
from api_server.services.retrieval.embedding import Embedder, Ended, Vector, ask


@dataclass(frozen=True)
class Questions:
    """`model` is the embedding model's id; `ended` gets the record of each request; `prefix` comes
    before each question.
    """

    embedder: Embedder
    model: str
    ended: Ended
    prefix: str = ""

    async def vectors(self, caller: Caller, texts: Sequence[str], route: str) -> list[Vector]:
        """A vector for each; counts under `route`. Raises `ApiError` as the embedding engine's lane
        does.
        """
        record = RequestRecord(new_request_id(), "POST", route, route=route)
        record.app_id, record.app, record.user = caller.app.id, caller.app.name, caller.user
        asked = [self.prefix + text for text in texts]
        return await ask(self.embedder, self.model, asked, caller, record, self.ended)
