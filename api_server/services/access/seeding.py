"""Apps from the file of the configuration, as they are put into the database at start."""

import asyncio
import logging
import re
from collections.abc import Sequence

from api_server.errors import DependencyDownError
from api_server.schemas.app_codes import SeededApp
from api_server.services.access.secrets import DIGEST_PREFIX, credential, hint_of, new_id
from api_server.stores.app_seeds import AppSeeds, Seeded, WantedApp
from api_server.stores.apps import NewCredential

AGAIN_SECONDS = 3.0

_DIGEST = re.compile(f"{DIGEST_PREFIX}([0-9a-f]{{64}})")

log = logging.getLogger(__name__)


def wanted_apps(apps: Sequence[SeededApp]) -> list[WantedApp]:
    """What the store needs of them: digests in the place of codes."""
    return [WantedApp(new_id("app"), app.name, app.policy, _code(app.code)) for app in apps]


def _code(code: str) -> NewCredential:
    if match := _DIGEST.fullmatch(code):
        return NewCredential(new_id("cred"), "app_code", bytes.fromhex(match[1]), hint_of(match[1]))
    return credential(code, "app_code")


async def seed(seeds: AppSeeds, apps: Sequence[SeededApp]) -> Seeded:
    """Put them into the database, and tell the log what that changed."""
    done = await seeds.seed(wanted_apps(apps))
    for verb in ("created", "updated", "revoked"):
        if names := getattr(done, verb):
            fields = {"apps": names[:50], "count": len(names)}
            log.warning(f"the file of app codes {verb} apps", extra=fields)
    for reason in done.refused:
        log.error("an app of the file was left out", extra={"reason": reason})
    return done


async def seed_until_done(
    seeds: AppSeeds, apps: Sequence[SeededApp], tables: asyncio.Event
) -> None:
    """As soon as the tables are there; again and again while PostgreSQL is away."""
    await tables.wait()
    while True:
        try:
            await seed(seeds, apps)
            return
        except DependencyDownError:
            await asyncio.sleep(AGAIN_SECONDS)
