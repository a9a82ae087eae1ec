"""Vector stores, their files and batches as OpenAI's objects. Pure."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from api_server.schemas.chunks import Chunk, Chunking, StaticChunking
from api_server.stores.vector_store_files import Batch, StoreFile
from api_server.stores.vector_stores import VectorStore

Json = dict[str, Any]

AUTO = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}}
"""What `auto` means, at OpenAI's as well."""


def store_object(store: VectorStore) -> Json:
    """`VectorStoreObject` of the reference."""
    counts = (store.in_progress, store.completed, store.failed, store.cancelled)
    told: Json = {
        "id": store.id,
        "object": "vector_store",
        "created_at": _seconds(store.created_at),
        "name": store.name,
        "description": store.description,
        "usage_bytes": store.usage_bytes,
        "file_counts": _counts(*counts),
        "status": _status(store),
        "last_active_at": _seconds(store.last_active_at),
        "expires_at": None,
        "metadata": msgspec.Raw(store.metadata.encode()),
    }
    if store.expires_after_days is not None:
        ends = store.last_active_at + timedelta(days=store.expires_after_days)
        told["expires_after"] = {"anchor": "last_active_at", "days": store.expires_after_days}
        told["expires_at"] = _seconds(ends)
    return told


def _status(store: VectorStore) -> str:
    if store.is_expired:
        return "expired"
    return "in_progress" if store.in_progress else "completed"


def file_object(vector_store_id: str, file: StoreFile) -> Json:
    """`VectorStoreFileObject` of the reference."""
    error = file.last_error
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": _seconds(file.created_at),
        "vector_store_id": vector_store_id,
        "status": file.status,
        "last_error": None if error is None else msgspec.Raw(error.encode()),
        "chunking_strategy": msgspec.Raw(file.chunking.encode()),
        "attributes": msgspec.Raw(file.attributes.encode()),
        "usage_bytes": file.usage_bytes,
    }


def batch_object(vector_store_id: str, batch: Batch) -> Json:
    """`VectorStoreFileBatchObject` of the reference."""
    counts = (batch.in_progress, batch.completed, batch.failed, batch.cancelled)
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": _seconds(batch.created_at),
        "vector_store_id": vector_store_id,
        "status": batch_status(batch),
        "file_counts": _counts(*counts),
    }


def batch_status(batch: Batch) -> str:
    """That some files of a batch failed is in its counts."""
    if batch.is_cancelled:
        return "cancelled"
    if batch.in_progress:
        return "in_progress"
    return "failed" if batch.failed and not batch.completed else "completed"


def chunking_json(chunking: Chunking | None) -> str:
    """As it is kept and shown."""
    told: Json = AUTO
    if isinstance(chunking, StaticChunking):
        told = {"type": "static", "static": msgspec.to_builtins(chunking.static)}
    return msgspec.json.encode(told).decode()


def content_of(chunks: list[Chunk]) -> list[Json]:
    """The text of a file, in the pieces that it was cut into, each without what the one before it
    has already.
    """
    parts: list[Json] = []
    reached = 0
    for chunk in chunks:
        text = chunk.text[max(0, reached - chunk.start) :]
        reached = max(reached, chunk.end)
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _counts(in_progress: int, completed: int, failed: int, cancelled: int) -> Json:
    return {
        "in_progress": in_progress,
        "completed": completed,
        "failed": failed,
        "cancelled": cancelled,
        "total": in_progress + completed + failed + cancelled,
    }


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
