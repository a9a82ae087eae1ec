"""init-scripts/minio and init-scripts/qdrant: what is shipped is right, what is wrong is said."""

from pathlib import Path

import pytest
import yaml

from api_server.errors import ConfigurationError
from api_server.settings.store_layout import FOLDER, load_buckets, load_collections

BUCKETS = {"files": "a-files", "batches": "a-batches", "reports": "a-reports"}
CHUNKS = {
    "name": "chunks",
    "vector_size": 768,
    "distance": "Cosine",
    "hnsw": {"m": 0, "payload_m": 16},
    "indexes": {"app_id": {"type": "keyword", "is_tenant": True}},
}


def folder_with(tmp_path: Path, **files: object) -> Path:
    for path, document in files.items():
        place = tmp_path / {"buckets": "minio", "collections": "qdrant"}[path]
        place.mkdir()
        (place / f"{path}.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


def test_the_shipped_layout() -> None:
    assert load_buckets().names() == ["stack-files", "stack-batches", "stack-reports"]
    chunks = load_collections().chunks
    assert (chunks.vector_size, chunks.distance) == (768, "Cosine")
    assert chunks.indexes["app_id"].is_tenant
    assert set(chunks.indexes) == {
        *("app_id", "vector_store_id", "file_id", "generation", "tags"),
    }


def test_every_file_of_the_folder_is_one_that_is_read() -> None:
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml")}
    assert found == {"minio/buckets.yaml", "qdrant/collections.yaml"}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (BUCKETS | {"file": "a-file"}, "unknown key 'file'. Did you mean 'files'?"),
        ({"files": "a-files"}, "batches: field required"),
        (BUCKETS | {"files": "Upper"}, "files: string should match pattern"),
        (BUCKETS | {"files": "a_b"}, "files: string should match pattern"),
        (BUCKETS | {"files": "a-batches"}, "two have the same name"),
        (None, "files: field required"),
        ([1], "should be a valid dictionary"),
    ],
)
def test_wrong_buckets(document: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_buckets(folder_with(tmp_path, buckets=document))
    assert "buckets.yaml: " in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vector_size": 0}, "chunks.vector_size: "),
        ({"vector_size": "large"}, "chunks.vector_size: "),
        ({"distance": "cosine"}, "chunks.distance: input should be 'Cosine'"),
        ({"quantization": "int8"}, "unknown key 'chunks.quantization'"),
        ({"indexes": {}}, "chunks.indexes: "),
        ({"indexes": {"app_id": {"type": "text"}}}, "chunks.indexes.app_id.type: "),
        ({"name": "a/b"}, "chunks.name: "),
    ],
)
def test_wrong_collections(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_collections(folder_with(tmp_path, collections={"chunks": CHUNKS | changes}))
    assert "collections.yaml: " in str(caught.value)
    assert sentence in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"buckets\.yaml: cannot be read"):
        load_buckets(tmp_path)
