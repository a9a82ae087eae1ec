"""How much of their prompts real engines find in their caches, by the way requests are routed.

Conversations interleave over several llama-servers: through our gateway with prefix affinity,
through it without (the least in flight), and in turn (round robin, by the clients themselves).
"""

import asyncio
import itertools
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import yaml

from api_server.local.plan import EnginePlan
from api_server.local.process import Command, free_port
from api_server.settings import REPOSITORY
from benchmarks.conversations import Conversation, Found, order_of_turns, table
from benchmarks.processes import Running, TargetError, listen, running
from benchmarks.targets import clean_environment

START_SECONDS = 60.0
ANSWER_SECONDS = 120.0
CONTEXT_TOKENS = 2048
"""Of a slot; the tiny model was trained on no more."""

MODEL = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
_PROMPT_TOKENS = re.compile(r"^llamacpp:(prompt_tokens(?:_cached)?_total) (\S+)", re.MULTILINE)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Workload:
    """How much is asked; `clients` is how many turns are asked for at the same time."""

    engines: int = 4
    slots: int = 4
    conversations: int = 20
    turns: int = 8
    clients: int = 8
    seed: int = 1


QUICK = Workload(engines=2, slots=2, conversations=4, turns=3, clients=2)


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Event(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


async def measure(binary: Path, folder: Path, workload: Workload, say: Say) -> str:
    """Measure every way, on engines with empty caches each; a Markdown table."""
    found = []
    for name, affinity in (("prefix affinity", True), ("least in flight", False)):
        say(f"{workload.conversations} conversations: {name}")
        async with (
            engines(binary, folder, workload) as urls,
            gateway(folder, urls, workload, affinity=affinity) as url,
        ):
            found.append(await talk(name, itertools.repeat(url), urls, workload))
    say(f"{workload.conversations} conversations: round robin")
    async with engines(binary, folder, workload) as urls:
        found.append(await talk("round robin", itertools.cycle(urls), urls, workload))
    return table(found)


async def talk(name: str, targets: Iterator[str], urls: Sequence[str], workload: Workload) -> Found:
    """All conversations, turn by turn; a conversation's next turn waits for its last answer."""
    conversations = [
        Conversation(number, workload.turns) for number in range(workload.conversations)
    ]
    locks = [asyncio.Lock() for _ in conversations]
    order = iter(order_of_turns(workload.conversations, workload.turns, workload.seed))
    first_tokens: list[float] = []
    repeatable = 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal repeatable
        for number in order:
            async with locks[number]:
                conversation = conversations[number]
                url = next(targets)
                text, usage, seconds = await ask(http, url, conversation)
                first_tokens.append(seconds)
                repeatable += conversation.answered(
                    text, usage.prompt_tokens, usage.completion_tokens
                )

    async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as http:
        async with asyncio.TaskGroup() as clients:
            for _ in range(workload.clients):
                clients.create_task(client(http))
        counters = [await _counters(http, url) for url in urls]
    cached = sum(each["prompt_tokens_cached_total"] for each in counters)
    prompts = [sum(each.values()) for each in counters]
    return Found(name, repeatable, cached, prompts, statistics.median(first_tokens))


async def ask(
    http: httpx.AsyncClient, url: str, conversation: Conversation
) -> tuple[str, _Usage, float]:
    """One turn: the answer's text, its tokens, the seconds until its first token."""
    body = {
        "model": "tiny",
        "messages": conversation.ask(),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 48,
        "temperature": 0,
    }
    began, first, text = time.perf_counter(), 0.0, ""
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise TargetError(f"{url} answered {answer.status_code}: {await answer.aread()!r}")
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data in (line, "[DONE]"):
                continue
            event = msgspec.json.decode(data, type=_Event)
            for choice in event.choices:
                first = first or time.perf_counter()
                text += choice.delta.content or ""
            if event.usage is not None:
                return text, event.usage, first - began
    raise TargetError(f"{url} told no usage")


async def _counters(http: httpx.AsyncClient, url: str) -> dict[str, int]:
    """Prompt tokens of an engine since its start: from its cache, and not."""
    text = (await http.get(f"{url}/metrics")).text
    return {name: int(float(value)) for name, value in _PROMPT_TOKENS.findall(text)}


@asynccontextmanager
async def engines(binary: Path, folder: Path, workload: Workload) -> AsyncIterator[list[str]]:
    """Real engines with the shipped model and empty caches; their base URLs."""
    plan = EnginePlan("tiny", MODEL, workload.slots, CONTEXT_TOKENS, threads=1)
    async with AsyncExitStack() as stack:
        urls = []
        for number in range(workload.engines):
            port = free_port()
            argv = [str(binary), *plan.arguments(port)]
            log_path = folder / f"engine-{number}.log"
            command = Command("engine", argv, clean_environment(), log_path)
            engine = await stack.enter_async_context(running(command))
            urls.append(await until_ready(engine, f"http://127.0.0.1:{port}", "/health"))
        yield urls


@asynccontextmanager
async def gateway(
    folder: Path, urls: Sequence[str], workload: Workload, *, affinity: bool
) -> AsyncIterator[str]:
    """`python -m api_server serve` with default settings but for the affinity; its base URL."""
    path = folder / "stack.yaml"
    model = {"id": "tiny", "replicas": list(urls), "slots": workload.slots}
    balancing = {"prefix_affinity": affinity}
    path.write_text(yaml.safe_dump({"models": [model], "balancing": balancing}))
    with listen() as listener:
        port: int = listener.getsockname()[1]
        environment = clean_environment(
            STACK_CONFIG=str(path), LISTEN_FD=str(listener.fileno()), DATA_DIR=str(folder)
        )
        argv = [sys.executable, "-m", "api_server", "serve"]
        fds = (listener.fileno(),)
        command = Command("gateway", argv, environment, folder / "gateway.log", fds)
        async with running(command) as process:
            yield await until_ready(process, f"http://127.0.0.1:{port}", "/health/ready")


async def until_ready(program: Running, url: str, path: str) -> str:
    """Wait until it says that it can serve; its base URL. Raises `TargetError`."""
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient() as http:
        while time.monotonic() < deadline:
            try:
                answer = await http.get(url + path)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return url
            await asyncio.sleep(0.1)
    raise TargetError(f"{program.program.name} was not ready within {START_SECONDS:g} s")
