"""What there shall be in the stores beside tables: the shapes of `init-scripts/minio/buckets.yaml`
and `init-scripts/qdrant/collections.yaml`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from api_server.schemas.apps import Strict

BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
"""What every server that speaks S3 takes."""

CollectionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")]
PayloadKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Buckets(Strict):
    """The names of the buckets, by what they hold."""

    files: BucketName
    batches: BucketName
    reports: BucketName

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        if len(set(self.names())) < len(self.names()):
            raise ValueError("each needs a bucket of its own, and two have the same name")
        return self

    def names(self) -> list[str]:
        """All of them."""
        return [self.files, self.batches, self.reports]


class Graph(Strict):
    """Edges of a point in the graph that searches follow: over all points, and over those with the
    same value of an indexed key.
    """

    m: int = Field(ge=0, le=128)
    payload_m: int = Field(ge=0, le=128)


class PayloadIndex(Strict):
    """A key of the payload that queries filter by."""

    type: Literal["keyword", "uuid"]
    is_tenant: bool = False


class Collection(Strict):
    """One collection of vectors, all of the same size."""

    name: CollectionName
    vector_size: int = Field(ge=1, le=65536)
    distance: Literal["Cosine", "Dot", "Euclid", "Manhattan"]
    hnsw: Graph
    indexes: dict[PayloadKey, PayloadIndex] = Field(min_length=1)


class Collections(Strict):
    """The collections, by what they hold."""

    chunks: Collection
