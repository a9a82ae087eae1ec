"""`python -m api_server apps` and `migrate`, as an operator types them."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.access import guarded_gateway
from tests.local_stack import NEUTRAL, REPOSITORY


def command(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api_server", *words],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | {"POSTGRES_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_life_of_an_app(postgres_url: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"rate_limits": ["100/hour"]}')
    created = command(postgres_url, "apps", "create", "Flash Cards", "--policy", str(policy))
    assert created.returncode == 0, created.stderr
    key = next(line.split()[-1] for line in created.stdout.splitlines() if line.startswith("key"))
    assert key.startswith("sk-")
    assert "the only time that it is shown" in created.stdout
    shown = command(postgres_url, "apps", "show", "Flash Cards").stdout
    assert '"rate_limits":["100/hour"]' in shown
    assert key not in shown
    assert f"{key[:6]}...{key[-4:]}" in shown
    listed = json.loads(command(postgres_url, "apps", "list", "--json").stdout)
    assert [app["name"] for app in listed] == ["Flash Cards"]
    assert "Flash Cards" in command(postgres_url, "apps", "list").stdout

    changed = command(postgres_url, "apps", "policy", "Flash Cards", '{"max_tokens": 7}')
    assert '"max_tokens":7' in changed.stdout
    rotated = command(postgres_url, "apps", "rotate", "Flash Cards", "--grace", "60", "--json")
    new_key = json.loads(rotated.stdout)["key"]
    hint = f"{key[:6]}...{key[-4:]}"
    ended = command(postgres_url, "apps", "revoke", "Flash Cards", "--key", hint, "--json")
    states = {each["hint"]: each["revoked_at"] for each in json.loads(ended.stdout)["credentials"]}
    assert states[hint] is not None
    assert states[f"{new_key[:6]}...{new_key[-4:]}"] is None
    assert "revoked" in command(postgres_url, "apps", "revoke", "Flash Cards").stdout
    again = command(postgres_url, "apps", "rotate", "Flash Cards")
    assert (again.returncode, "is revoked" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("show", "nobody"), "There is no app 'nobody'"),
        (("create", "a\nb"), "is no name for an app"),
        (("create", "x'; drop table apps; --"), "is no name for an app"),
        (("create", "development"), "for itself"),
        (("create", "a", "--policy", "{"), "not valid JSON"),
        (("create", "a", "--policy", '{"max_token": 1}'), "Did you mean 'max_tokens'?"),
        (("create", "a", "--policy", "/nowhere.json"), "no file to be read"),
        (("revoke", "' or 1=1 --"), "There is no app"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    postgres_url: str, words: tuple[str, ...], fragment: str
) -> None:
    done = command(postgres_url, "apps", *words)
    assert done.returncode == 1
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_database_it_says_what_to_set() -> None:
    for words in (("migrate",), ("apps", "list")):
        done = command("", *words)
        assert (done.returncode, "set POSTGRES_URL" in done.stderr) == (1, True)
        done = command("postgresql://nobody@127.0.0.1:1/none", *words)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_beside_make_local_it_says_where_the_database_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert "make local" not in command("", "apps", "list").stderr
    (tmp_path / "postgres.url").write_text("postgresql://nobody@127.0.0.1:1/none\n")
    assert f'POSTGRES_URL="$(cat {tmp_path}/postgres.url)"' in command("", "apps", "list").stderr


def test_migrate_says_what_it_did(postgres_url: str) -> None:
    done = command(postgres_url, "migrate")
    assert done.returncode == 0
    assert done.stdout.startswith("The database has version ")


async def test_a_key_from_the_command_line_opens_a_running_gateway(
    postgres_url: str, tmp_path: Path
) -> None:
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        made = await asyncio.to_thread(command, postgres_url, "apps", "create", "a", "--json")
        key = json.loads(made.stdout)["key"]
        async with asyncio.timeout(3):
            while (await gateway.chat(key)).status_code != 200:
                await asyncio.sleep(0.02)
