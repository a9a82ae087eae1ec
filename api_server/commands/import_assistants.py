"""`python -m api_server import-assistants`: what was exported from OpenAI's API, for an app."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from api_server.commands.database import postgres_url
from api_server.composition import Services, compose
from api_server.errors import ApiError, AppNotFoundError, SetupError
from api_server.schemas.apps import ANYONE
from api_server.schemas.dumps import DumpedFile
from api_server.services.access.authentication import DEVELOPMENT
from api_server.services.assistants.dumps import moment
from api_server.services.assistants.importing import Importer, KeepFile, Report
from api_server.services.files.rules import safe_name, type_of
from api_server.settings import Settings
from api_server.stores.postgres import Postgres

EXPLANATION = "take assistants, threads and files that were exported from OpenAI's API"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dump", type=Path, help="the file; docs/assistants.md has its format")
    parser.add_argument(
        "--app", required=True, metavar="NAME", help="whose they are to be: its name or its id"
    )
    parser.add_argument("--model", help="for assistants whose model is not served here")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """1 where something was refused. Raises `SetupError` with what is wrong."""
    try:
        content = arguments.dump.read_bytes()
    except OSError as exc:
        raise SetupError(f"{arguments.dump} cannot be read: {exc.strerror}.") from exc
    postgres_url(settings)  # says what is missing

    async def work() -> Report:
        services = compose(settings)
        try:
            return await _import(services, content, arguments)
        finally:
            for store in services.stores:
                await store.aclose()

    try:
        report = asyncio.run(work())
    except ApiError as exc:
        raise SetupError(exc.message) from exc
    if arguments.json:
        print(json.dumps({"counts": report.counts, "problems": report.problems}, indent=2))
    else:
        _print(report)
    return int(any(fates["refused"] for fates in report.counts.values()))


async def _import(services: Services, content: bytes, arguments: argparse.Namespace) -> Report:
    models = frozenset(model.id for model in services.catalogue if model.serves == "text")
    if arguments.model is not None and arguments.model not in models:
        raise SetupError(f"--model: {arguments.model!r} is none of {', '.join(sorted(models))}.")
    postgres = next(store for store in services.stores if isinstance(store, Postgres))
    importer = Importer(
        postgres,
        await _app_id(services, arguments.app),
        arguments.dump.parent,
        models,
        model=arguments.model,
        keep_file=_keeper(services),
    )
    return await importer.take(content)


async def _app_id(services: Services, name: str) -> str:
    for built_in in (ANYONE.app, DEVELOPMENT.app):  # of AUTH=off, of the development key
        if name == built_in.name:
            return built_in.id
    assert services.apps is not None, "there is a database"
    try:
        app = await services.apps.find(name)
    except AppNotFoundError as exc:
        raise SetupError(f"--app: {exc.message}") from exc
    if app.revoked_at is not None:
        raise SetupError(f"--app: {app.name!r} is revoked.")
    return app.id


def _keeper(services: Services) -> KeepFile | None:
    if services.kept.files is None:
        return None
    store = services.kept.files.service.store

    async def keep(app_id: str, dumped: DumpedFile, chunks: AsyncIterator[bytes]) -> object:
        name = safe_name(dumped.filename)
        created_at = moment(dumped.created_at)
        return await store(
            *(app_id, name, dumped.purpose, type_of(None, name), chunks),
            id_=dumped.id,
            created_at=created_at,
        )

    return keep


def _print(report: Report) -> None:
    for kind, fates in report.counts.items():
        print(
            f"{kind}s: {fates['taken']:,} taken, {fates['known']:,} were here already, "
            f"{fates['refused']:,} refused"
        )
    if not report.counts:
        print("There is nothing in this file.")
    for problem in report.problems:
        print(problem, file=sys.stderr)
