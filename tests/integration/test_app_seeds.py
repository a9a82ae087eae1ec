"""Apps from a file: made, changed, renamed, revoked and taken back; others are left alone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server.schemas.app_codes import SeededApp
from api_server.schemas.apps import Policy
from api_server.services.access.directory import Directory
from api_server.services.access.secrets import digest_of
from api_server.services.access.seeding import seed
from api_server.stores.app_seeds import AppSeeds, Seeded
from api_server.stores.apps import AppRecord, AppStore
from api_server.stores.postgres import Postgres
from tests.access import guarded_gateway, make_app

CODE, OTHER = "f3a9c1d27b8e4f60", "0b1c5d7e9fa2b4c6"


class Seeding:
    """A database, the file that it is brought to, and what a gateway makes of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.postgres = Postgres(url)
        self.store = AppStore(self.postgres)
        self.directory = Directory(self.store, folder / "s")

    async def apply(self, **apps: tuple[str, dict[str, Any]]) -> Seeded:
        wanted = [
            SeededApp(name.replace("_", " "), Policy.model_validate(policy), code)
            for name, (code, policy) in apps.items()
        ]
        done = await seed(AppSeeds(self.postgres), wanted)
        await self.directory.refresh()
        return done

    def name_of(self, code: str) -> str | None:
        app = self.directory.find_app_code(code)
        return app.name if app is not None else None

    async def apps(self) -> list[AppRecord]:
        return await self.store.apps()


@pytest.fixture
async def seeding(postgres_url: str, tmp_path: Path) -> Any:
    seeding = Seeding(postgres_url, tmp_path)
    yield seeding
    await seeding.postgres.aclose()


async def test_the_life_of_apps_in_a_file(seeding: Seeding) -> None:
    assert (await seeding.apply(shop=(CODE, {}), quiz=(OTHER, {}))).created == ["shop", "quiz"]
    assert (seeding.name_of(CODE), seeding.name_of(OTHER)) == ("shop", "quiz")
    change = await seeding.store.last_change()
    assert await seeding.apply(shop=(CODE, {}), quiz=(OTHER, {})) == Seeded()
    assert await seeding.store.last_change() == change, "what is right is not written again"

    assert (await seeding.apply(shop=(CODE, {"max_tokens": 7}))) == Seeded(
        updated=["shop"], revoked=["quiz"]
    )
    assert seeding.name_of(OTHER) is None
    app = seeding.directory.find_app_code(CODE)
    assert app is not None
    assert app.policy.max_tokens == 7

    assert (await seeding.apply(store=(CODE, {}))).updated == ["store"], "renamed: the same code"
    assert seeding.name_of(CODE) == "store"
    assert (await seeding.apply(store=("a-new-code-for-it", {}))).updated == ["store"]
    assert (seeding.name_of(CODE), seeding.name_of("a-new-code-for-it")) == (None, "store")
    assert (await seeding.apply(store=(CODE, {}), quiz=(OTHER, {}))).updated == ["store", "quiz"]
    assert (seeding.name_of(CODE), seeding.name_of(OTHER)) == ("store", "quiz")
    assert seeding.name_of("a-new-code-for-it") is None
    assert len(await seeding.apps()) == 2, "no app was made twice"


async def test_apps_made_otherwise_are_never_touched(seeding: Seeding, postgres_url: str) -> None:
    issued = await make_app(postgres_url, "shop", max_tokens=5)
    assert issued.app_code is not None
    done = await seeding.apply(shop=(CODE, {}), thief=(issued.app_code, {}))
    assert len(done.refused) == 2
    assert "'shop' belongs to an app made otherwise" in done.refused[0]
    assert "code of 'thief' belongs to another app" in done.refused[1]
    assert seeding.name_of(issued.app_code) == "shop"
    assert seeding.name_of(CODE) is None
    assert await seeding.apply() == Seeded()
    [app] = await seeding.apps()
    assert app == issued.app
    assert CODE not in str(done)


async def test_a_digest_may_stand_for_the_code(seeding: Seeding) -> None:
    await seeding.apply(shop=(f"sha256:{digest_of(CODE).hex()}", {}))
    assert seeding.name_of(CODE) == "shop"
    assert seeding.name_of(f"sha256:{digest_of(CODE).hex()}") is None


async def test_processes_that_start_together_agree(seeding: Seeding, postgres_url: str) -> None:
    others = [Seeding(postgres_url, Path("unused")) for _ in range(4)]
    wanted = [SeededApp("shop", Policy(), CODE), SeededApp("quiz", Policy(), OTHER)]
    done = await asyncio.gather(*(seed(AppSeeds(each.postgres), wanted) for each in others))
    assert sum(len(each.created) for each in done) == 2
    assert len(await seeding.apps()) == 2
    for each in others:
        await each.postgres.aclose()


async def test_a_gateway_applies_its_file_at_start(tmp_path: Path, postgres_url: str) -> None:
    codes = tmp_path / "codes.yaml"
    codes.write_text(yaml.safe_dump({"app_codes": {CODE: {"name": "shop", "max_tokens": 9}}}))
    async with guarded_gateway(tmp_path, postgres_url, apps={"seed": str(codes)}) as gateway:
        shown = (await gateway.admin("GET", "/shop")).json()
        assert (shown["source"], shown["policy"]["max_tokens"]) == ("file", 9)
        refused = await gateway.admin("PATCH", "/shop", json={"max_tokens": 1})
        assert refused.status_code == 400
        assert "change it there" in refused.json()["error"]["message"]
        code = await gateway.admin("POST", "/shop/rotate", json={"kind": "app_code"})
        assert code.status_code == 400
        key = (await gateway.admin("POST", "/shop/rotate")).json()["key"]
        async with asyncio.timeout(3):
            while (await gateway.chat(key)).status_code != 200:
                await asyncio.sleep(0.02)
