"""The one who waits for an answer, as the services see it. Routes implement it."""

from collections.abc import Sequence
from typing import Literal, Protocol

from api_server.schemas.apps import Caller

Headers = Sequence[tuple[bytes, bytes]]
CacheWish = Literal["use", "no-store"]


class Client(Protocol):
    """Every method may be cancelled when the client leaves."""

    @property
    def caller(self) -> Caller:
        """Which app it is, and for whom."""

    @property
    def is_retry(self) -> bool | None:
        """Whether it says that it was sent away before; None where it says nothing of it."""

    @property
    def cache_wish(self) -> CacheWish | None:
        """Whether it asks for an answer that was given before, or for none; None if for nothing."""

    @property
    def has_begun(self) -> bool:
        """Whether headers went out, so that an error can only be an event."""

    @property
    def has_left(self) -> bool:
        """Whether nobody listens any more."""

    async def answer(self, body: bytes, headers: Headers = ()) -> None:
        """Send a whole JSON answer with status 200."""

    async def begin_stream(self, headers: Headers = ()) -> None:
        """Send the headers of an event stream; after this only events may follow."""

    async def events(self, block: bytes) -> None:
        """Send whole events; waits while the client reads more slowly than the engine writes.

        Raises `ClientLeftError` when it reads nothing at all for as long as an engine may be idle.
        """

    async def end_stream(self) -> None:
        """End an event stream."""

    def cut_off(self) -> None:
        """Drop the connection at once, with whatever the client did not read."""
