"""The servers that all tests share."""

from collections.abc import Iterator

import pytest

from api_server.local.store_programs import NOWHERE
from tests.qdrant import QdrantServer, running_qdrant
from tests.s3 import S3Server, running_s3
from tests.stores import PostgresServer, Programs, RedisServer, running_postgres, running_redis


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--installed-stores",
        action="store_true",
        help="run the PostgreSQL and the Redis that are installed where a machine has none",
    )


@pytest.fixture(scope="session")
def store_programs(request: pytest.FixtureRequest) -> Programs:
    return Programs(NOWHERE) if request.config.getoption("--installed-stores") else Programs()


@pytest.fixture(scope="session")
def postgres_server(store_programs: Programs) -> Iterator[PostgresServer]:
    with running_postgres(store_programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An own database with all tables."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(store_programs: Programs) -> Iterator[RedisServer]:
    with running_redis(store_programs) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.empty()
    return redis_server.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantServer]:
    with running_qdrant() as server:
        yield server
