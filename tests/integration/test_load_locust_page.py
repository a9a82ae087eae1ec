"""Locust's own page in a real browser, while it makes load: nothing is cut, dark and light."""

import asyncio
import os
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Literal

import pytest

from api_server.local.process import free_port
from tests.chromium import chromium_program, running_chromium
from tests.local_stack import REPOSITORY
from tests.replicas import running_gateway, running_replicas

PROGRAM = chromium_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

CUT = """
[...document.querySelectorAll('td,th,button,p')].filter(each =>
  each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0
  && getComputedStyle(each).overflow !== 'visible').map(each => each.textContent)
"""


def _swarm(page: str, host: str) -> None:
    wanted = [("user_count", "4"), ("spawn_rate", "4"), ("host", host)]
    wanted += [("user_classes", name) for name in ("Short", "Medium")]
    body = urllib.parse.urlencode(wanted).encode()
    with urllib.request.urlopen(f"{page}/swarm", body, timeout=10) as answer:
        assert answer.status == 200


def _is_up(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _look(page: str, folder: Path) -> None:
    assert PROGRAM is not None
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    with running_chromium(PROGRAM, folder) as tab:
        grounds = set()
        for scheme in schemes:
            tab.look(1400, 900, scheme)
            tab.open(page)
            shown = tab.ask(
                "new Promise(done => { const look = () => { const text = document.body.innerText;"
                " text.includes('medium first token') ? done(text) : setTimeout(look, 100) };"
                " look(); setTimeout(() => done(document.body.innerText), 15000) })"
            )
            for name in ("short", "short first token", "short gap", "short tokens", "medium gap"):
                assert name in shown
            assert tab.ask("document.documentElement.scrollWidth") <= 1400
            assert tab.ask(CUT) == []
            assert tab.complaints == []
            assert all(url.startswith((page, "data:")) for url in tab.fetched)
            grounds.add(tab.ask("getComputedStyle(document.body).backgroundColor"))
            if shots := os.environ.get("LOAD_REPORT_SCREENSHOTS"):
                tab.picture(Path(shots) / f"locust-{scheme}.png")
        assert len(grounds) == 2


async def test_locusts_page_shows_our_entries_light_and_dark(tmp_path: Path) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"fake": replicas}) as gateway,
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "--class-picker", "--skip-log"),
            *("-f", "load_tests/locustfile.py,load_tests/open_loop.py"),
            *("--web-host", "127.0.0.1", "--web-port", str(port), "--host", gateway.url),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(60):
                while not await asyncio.to_thread(_is_up, page):
                    await asyncio.sleep(0.2)
                await asyncio.to_thread(_swarm, page, gateway.url)
                profile = tmp_path / "profile"
                profile.mkdir()
                await asyncio.to_thread(_look, page, profile)
        finally:
            process.terminate()
            await process.wait()
