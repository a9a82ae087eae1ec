"""Collections: each a folder with a shard of the engine, and all in a file that describes them.

Points are searched one by one, as numbers of 16 bits: the engine makes its graphs under Python's
lock, for minutes in which nobody would get an answer. Every few thousand points it puts them into a
segment that is searched three times as fast, which takes a second. Each change is in the engine's
log before it is answered, and survives the end of the process.
"""

import contextlib
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from api_server.vector_server.refusing import RequestRefused
from api_server.vector_server.translating import check_size, filter_of, point_of

Json = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
DISTANCES = {"Cosine", "Dot", "Euclid", "Manhattan"}
INDEXES = {
    "keyword": "Keyword",
    "uuid": "Uuid",
    "integer": "Integer",
    "float": "Float",
    "bool": "Bool",
    "datetime": "Datetime",
    "geo": "Geo",
    "text": "Text",
}
MAY_BE_TENANT = {"keyword", "uuid"}
FLUSH_SECONDS = 5.0
POINTS_OF_SEGMENT = 5_000
NO_GRAPHS = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000, payload_m=0)
SEGMENTS = edge.EdgeOptimizersConfig(
    indexing_threshold=1_000, max_segment_size=20_000, default_segment_number=8
)
"""Sizes in kB: what is small is never rewritten together with much else."""


class Shard:
    """The points of one collection. One change at a time."""

    def __init__(self, folder: Path, size: int, distance: str) -> None:
        self.size = size
        self._folder = folder
        self._lock = threading.Lock()
        self._is_dirty = False
        self._unsorted = 0
        vectors = edge.EdgeVectorParams(
            size=size,
            distance=getattr(edge.Distance, distance),
            datatype=edge.VectorStorageDatatype.Float16,
        )
        if (folder / "edge_config.json").exists() or any(folder.glob("segments/*")):
            self._shard = edge.EdgeShard.load(str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            told = edge.EdgeConfig(vectors=vectors, hnsw_config=NO_GRAPHS, optimizers=SEGMENTS)
            self._shard = edge.EdgeShard.create(str(folder), told)

    def count_all(self) -> int:
        return int(self._shard.info().points_count)

    def index(self, key: str, kind: str) -> None:
        schema = getattr(edge.PayloadSchemaType, INDEXES[kind])
        self._change(edge.UpdateOperation.create_field_index(key, schema))

    def drop_index(self, key: str) -> None:
        self._change(edge.UpdateOperation.delete_field_index(key))

    def upsert(self, body: Json) -> None:
        points = [point_of(each, self.size) for each in _list(body, "points")]
        self._change(edge.UpdateOperation.upsert_points(points))
        self._unsorted += len(points)

    def delete(self, body: Json) -> None:
        wanted = filter_of(body.get("filter"))
        self._change(edge.UpdateOperation.delete_points_by_filter(wanted))

    def set_payload(self, body: Json) -> None:
        payload, wanted = body.get("payload"), filter_of(body.get("filter"))
        self._change(edge.UpdateOperation.set_payload_by_filter(wanted, payload))

    def query(self, body: Json) -> Json:
        vector = body.get("query")
        check_size(vector, self.size)
        found = self._shard.query(
            edge.QueryRequest(
                limit=int(body.get("limit", 10)),
                query=edge.Query.Nearest(vector),
                filter=_filter_in(body),
                score_threshold=body.get("score_threshold"),
                with_payload=bool(body.get("with_payload", False)),
            )
        )
        points = [
            {"id": str(each.id), "version": 0, "score": each.score, "payload": each.payload}
            for each in found
        ]
        return {"points": points}

    def scroll(self, body: Json) -> Json:
        found, after = self._shard.scroll(
            edge.ScrollRequest(
                offset=body.get("offset"),
                limit=int(body.get("limit", 10)),
                filter=_filter_in(body),
                with_payload=bool(body.get("with_payload", True)),
            )
        )
        points = [{"id": str(each.id), "payload": each.payload} for each in found]
        return {"points": points, "next_page_offset": None if after is None else str(after)}

    def count(self, body: Json) -> Json:
        return {"count": self._shard.count(edge.CountRequest(filter=_filter_in(body), exact=True))}

    def flush(self) -> None:
        """So that the log need not be read again from its beginning."""
        if self._is_dirty:
            with self._lock:
                self._is_dirty = False
                self._shard.flush()

    def tidy(self) -> None:
        """Put new points where they are searched fast. Stops everything for about a second."""
        if self._unsorted >= POINTS_OF_SEGMENT:
            with self._lock:
                self._unsorted = 0
                self._shard.optimize()

    def remove(self) -> None:
        with self._lock, contextlib.suppress(Exception):
            self._shard.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _change(self, operation: edge.UpdateOperation) -> None:
        with self._lock:
            self._shard.update(operation)
            self._is_dirty = True


class Collections:
    """All of them, by name, as `GET /collections/NAME` describes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / "collections.json"
        self._lock = threading.Lock()
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._all: dict[str, Json] = kept
        self._shards = {name: self._open(name) for name in kept}

    def names(self) -> list[str]:
        return sorted(self._all)

    def shard(self, name: str) -> Shard:
        if name not in self._shards:
            raise RequestRefused(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._shards[name]

    def describe(self, name: str) -> Json:
        shard = self.shard(name)
        return self._all[name] | {"points_count": shard.count_all()}

    def create(self, name: str, body: Json) -> None:
        if not NAME.fullmatch(name):
            raise RequestRefused(422, "Validation error: the name of the collection")
        vectors = body.get("vectors", {})
        for each in [vectors] if "size" in vectors else vectors.values():
            _check_vectors(each)
        with self._lock:
            if name in self._all:
                raise RequestRefused(409, f"Wrong input: Collection `{name}` already exists!")
            self._all[name] = {
                "status": "green",
                "optimizer_status": "ok",
                "indexed_vectors_count": 0,
                "config": {
                    "params": {"vectors": vectors, "shard_number": 1, "on_disk_payload": True},
                    "hnsw_config": {"m": 16, "ef_construct": 100} | body.get("hnsw_config", {}),
                    "quantization_config": body.get("quantization_config"),
                },
                "payload_schema": {},
            }
            self._shards[name] = self._open(name)
            self._keep()

    def delete(self, name: str) -> bool:
        with self._lock:
            is_there = self._all.pop(name, None) is not None
            self._keep()
            shard = self._shards.pop(name, None)
        if shard is not None:
            shard.remove()
        return is_there

    def index(self, name: str, body: Json) -> None:
        schema = body.get("field_schema")
        params = {"type": schema} if isinstance(schema, str) else schema
        if not isinstance(params, dict) or params.get("type") not in INDEXES:
            raise RequestRefused(422, "Format error in JSON body: unknown type of the index")
        if "is_tenant" in params and params["type"] not in MAY_BE_TENANT:
            raise RequestRefused(422, "Format error in JSON body: unknown field `is_tenant`")
        described = {"data_type": params["type"], "points": 0}
        if not isinstance(schema, str):
            described["params"] = params
        with self._lock:
            self.shard(name).index(body["field_name"], params["type"])
            self._all[name]["payload_schema"][body["field_name"]] = described
            self._keep()

    def drop_index(self, name: str, key: str) -> None:
        with self._lock:
            shard = self.shard(name)
            if self._all[name]["payload_schema"].pop(key, None) is not None:
                shard.drop_index(key)
                self._keep()

    def flush(self) -> None:
        for shard in list(self._shards.values()):
            shard.flush()

    def tidy(self) -> None:
        for shard in list(self._shards.values()):
            shard.tidy()

    def _open(self, name: str) -> Shard:
        vectors = self._all[name]["config"]["params"]["vectors"]
        plain = vectors if "size" in vectors else next(iter(vectors.values()))
        return Shard(self._folder / name, plain["size"], plain["distance"])

    def _keep(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._all))
        partial.replace(self._path)


def _check_vectors(vectors: Any) -> None:
    size, distance = vectors.get("size"), vectors.get("distance")
    if not isinstance(size, int) or not 1 <= size <= 65536 or distance not in DISTANCES:
        raise RequestRefused(422, "Format error in JSON body: size or distance of vectors")


def _filter_in(body: Json) -> edge.Filter | None:
    return filter_of(body["filter"]) if body.get("filter") is not None else None


def _list(body: Json, name: str) -> list[Any]:
    found = body.get(name)
    if not isinstance(found, list):
        raise RequestRefused(400, f"Format error in JSON body: {name} is no list")
    return found
