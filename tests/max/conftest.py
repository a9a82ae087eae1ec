"""One MAX and one gateway for the whole session; the figures for the README at its end."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest

from tests.max.engine import (
    Engine,
    Installed,
    install,
    make_model,
    running_engine,
    running_gateway,
)

FIGURES: list[str] = []


@pytest.fixture(scope="session")
def installed() -> Installed:
    max_ = install()
    took = f"installed in {max_.seconds:.0f} s" if max_.seconds else "was installed"
    FIGURES.append(f"MAX {max_.version} {took}")
    return max_


@pytest.fixture(scope="session")
def model(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(installed, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def engine(
    installed: Installed, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with running_engine(installed, model, tmp_path_factory.mktemp("engine")) as running:
        kind = "cold" if running.is_cold else "warm"
        FIGURES.append(f"{kind} start {running.start_seconds:.1f} s")
        yield running


@pytest.fixture(scope="session")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_gateway(engine.url, tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture(scope="session")
def client(gateway: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(gateway: str) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{gateway}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.write_line("; ".join(FIGURES))
