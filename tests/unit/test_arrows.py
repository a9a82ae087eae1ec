"""The lint that keeps the house in order finds what it is there to find."""

import pytest

from scripts.check_arrows import breaches_of


@pytest.mark.parametrize(
    ("path", "source", "fragment"),
    [
        (
            "routes/x.py",
            "from api_server.stores.postgres import Store",
            "routes must not import stores",
        ),
        (
            "services/x.py",
            "from api_server.routes import health",
            "services must not import routes",
        ),
        ("inference/x.py", "import api_server.settings", "inference must not import settings"),
        ("services/x.py", "from fastapi import Request", "fastapi only in"),
        ("services/x.py", "import asyncpg", "go through a store"),
        ("services/x.py", "from minio import Minio", "minio only in stores"),
        ("commands/x.py", "import urllib3", "urllib3 only in stores"),
        ("services/x.py", "import httpx", "through a handler"),
        ("services/x.py", "def f():\n    global a\n", "no `global`"),
        ("services/x.py", "import os\nos.environ['A']", "only settings/environment.py"),
        ("services/x.py", "from os import environ", "only settings/environment.py"),
        ("settings/x.py", "import os\nos.getenv('A')", "only settings/environment.py"),
        ("services/x.py", "import urllib.request", "only in no room"),
        ("routes/x.py", "from api_server.inference.handlers import http1", "must not import"),
        ("cellar/x.py", "", "no room is called 'cellar'"),
        ("services/x.py", "from . import requests", "full-name"),
        ("middleware/x.py", "x = BaseHTTPMiddleware", "breaks streams"),
        ("services/x.py", "from api_server import main", "services must not import main"),
    ],
)
def test_breaches_are_found(path: str, source: str, fragment: str) -> None:
    found = breaches_of(f"api_server/{path}", source)
    assert len(found) == 1
    assert fragment in found[0]


def test_allowed_imports_pass() -> None:
    assert breaches_of("api_server/stores/postgres.py", "import asyncpg") == []
    assert (
        breaches_of("api_server/routes/x.py", "from api_server.services.health import Health") == []
    )
