"""`python -m api_server migrate`: brings the database's tables up to date."""

import argparse
import asyncio

from api_server.commands.database import postgres_url
from api_server.settings import Settings
from api_server.stores.migrations import migrate, migrations

EXPLANATION = "bring the database's tables up to date (a gateway does it at its start as well)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""
    del parser


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Raises `SetupError` where that cannot be."""
    del arguments
    applied = asyncio.run(migrate(postgres_url(settings)))
    for name in applied:
        print(f"applied {name}")
    print(f"The database has version {len(migrations())}.")
    return 0
