"""Reads which buckets and collections there shall be. Tables are `stores/migrations.py`'s."""

from pathlib import Path

from api_server.schemas.store_layout import Buckets, Collections
from api_server.settings.yaml_file import load_yaml

FOLDER = Path(__file__).resolve().parent.parent.parent / "init-scripts"


def load_buckets(folder: Path = FOLDER) -> Buckets:
    """Of the object store. Raises `ConfigurationError`."""
    return load_yaml(folder / "minio/buckets.yaml", Buckets)


def load_collections(folder: Path = FOLDER) -> Collections:
    """Of Qdrant. Raises `ConfigurationError`."""
    return load_yaml(folder / "qdrant/collections.yaml", Collections)
