"""One bucket of the object store, as files use it."""

from typing import Protocol


class ObjectStore(Protocol):
    """Each raises `DependencyDownError` where the object store is away, hangs or refuses us."""

    async def put(self, bucket: str, name: str, content: bytes) -> None:
        """Write one object, whole or not at all."""

    async def get(self, bucket: str, name: str, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises `ObjectMissingError`."""

    async def remove(self, bucket: str, name: str) -> None:
        """One that is not there is removed."""

    async def probe(self, bucket: str) -> None:
        """Find out whether it is there."""


class Bucket:
    """Its objects, by name."""

    def __init__(self, objects: ObjectStore, name: str) -> None:
        self._objects = objects
        self._name = name

    async def put(self, name: str, content: bytes) -> None:
        await self._objects.put(self._name, name, content)

    async def get(self, name: str, offset: int, length: int) -> bytes:
        return await self._objects.get(self._name, name, offset, length)

    async def remove(self, name: str) -> None:
        await self._objects.remove(self._name, name)

    async def probe(self) -> None:
        await self._objects.probe(self._name)
