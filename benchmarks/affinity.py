"""How much of their prompts real engines find in their caches, by the way requests are routed.

Conversations interleave over several llama-servers: through our gateway with prefix affinity,
through it without (the least in flight), and in turn (round robin, by the clients themselves).
"""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from benchmarks.conversations import (
    Conversation,
    Round,
    Turn,
    disagreement,
    found_by_chance,
    order_of_turns,
    table,
)
from benchmarks.processes import TargetError
from benchmarks.real_engines import MODEL_ID, engines, gateway
from benchmarks.targets import log_lines

ANSWER_SECONDS = 120.0
ANSWER_TOKENS = 48
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
    rounds: int = 3


QUICK = Workload(engines=2, conversations=4, turns=3, clients=2, rounds=1)


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Timings(msgspec.Struct):
    cache_n: int


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Event(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    timings: _Timings | None = None


@dataclass(frozen=True)
class Answer:
    """One turn's answer; how many tokens of its prompt the engine had says the engine itself."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int
    first_token_seconds: float


async def measure(binary: Path, folder: Path, workload: Workload, say: Say) -> str:
    """Every way in every round, on engines with empty caches each; a Markdown table."""
    ways = {"prefix affinity": True, "least in flight": False, "round robin": None}
    found: dict[str, list[Round]] = {way: [] for way in ways}
    for seed in range(1, workload.rounds + 1):
        for way, affinity in ways.items():
            say(f"round {seed} of {workload.rounds}: {way}")
            async with engines(binary, folder, workload.engines, workload.slots) as urls:
                if affinity is None:
                    asked: Counter[str] = Counter()
                    turns = await talk(in_turn(urls, asked), urls, workload, seed)
                else:
                    log_path = folder / "gateway.log"
                    async with gateway(log_path, urls, workload.slots, affinity=affinity) as url:
                        turns = await talk(itertools.repeat(url), urls, workload, seed)
                    asked = replicas_in(log_path.read_bytes())
            found[way].append(Round(turns, [asked[_name(url)] for url in urls]))
    chance = found_by_chance(workload.engines, workload.turns)
    return (
        f"{table(found)}\n\nBy chance, and if engines forgot nothing, a turn would find "
        f"{chance:.0%} of its history, and one in {workload.engines} all of it."
    )


async def talk(
    targets: Iterator[str], urls: Sequence[str], workload: Workload, seed: int
) -> list[Turn]:
    """All conversations; a conversation's next turn waits for its last answer.

    Raises `TargetError`, also when the engines' counters disagree with their answers.
    """
    conversations = [Conversation(number) for number in range(workload.conversations)]
    locks = [asyncio.Lock() for _ in conversations]
    order = iter(order_of_turns(workload.conversations, workload.turns, seed))
    turns: list[Turn] = []

    async def client(http: httpx.AsyncClient) -> None:
        for number in order:
            async with locks[number]:
                conversation = conversations[number]
                answer = await ask(http, next(targets), conversation.ask())
                repeatable = conversation.answered(
                    answer.text, answer.prompt_tokens, answer.answer_tokens
                )
                turns.append(
                    Turn(
                        answer.prompt_tokens,
                        repeatable,
                        answer.cached_tokens,
                        answer.first_token_seconds,
                    )
                )

    async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as http:
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(workload.clients):
                    clients.create_task(client(http))
            counters = [await _counters(http, url) for url in urls]
        except* (TargetError, httpx.HTTPError) as group:
            raise TargetError(f"a turn failed: {group.exceptions[0]!r}") from group
    cached = sum(each["prompt_tokens_cached_total"] for each in counters)
    computed = sum(each["prompt_tokens_total"] for each in counters)
    if fault := disagreement(turns, cached, computed):
        raise TargetError(fault)
    return turns


async def ask(http: httpx.AsyncClient, url: str, messages: Sequence[dict[str, str]]) -> Answer:
    """One turn, through to the end of its stream."""
    body = {
        "model": MODEL_ID,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }
    # llama-server promises to keep a connection and ends it after every stream all the same.
    headers = {"connection": "close"}
    began, first, text = time.perf_counter(), 0.0, ""
    usage: _Usage | None = None
    timings: _Timings | None = None
    path = f"{url}/v1/chat/completions"
    async with http.stream("POST", path, json=body, headers=headers) as answer:
        if answer.status_code != 200:
            raise TargetError(f"{url} answered {answer.status_code}: {await answer.aread()!r}")
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data in (line, "[DONE]"):
                continue
            event = msgspec.json.decode(data, type=_Event)
            for choice in event.choices:
                if choice.delta.content:
                    first = first or time.perf_counter()
                    text += choice.delta.content
            usage, timings = event.usage or usage, event.timings or timings
    if usage is None or timings is None or not first:
        raise TargetError(f"{url} gave no text, no usage or no timings")
    return Answer(
        text, usage.prompt_tokens, usage.completion_tokens, timings.cache_n, first - began
    )


def in_turn(urls: Sequence[str], asked: Counter[str]) -> Iterator[str]:
    """The engines, one after the other, without end; `asked` counts how often each was given."""
    for url in itertools.cycle(urls):
        asked[_name(url)] += 1
        yield url


def replicas_in(log: bytes) -> Counter[str]:
    """How many requests the gateway's log says each engine answered."""
    lines = log_lines(log.splitlines())
    return Counter(line.replica for line in lines if line.replica is not None)


def _name(url: str) -> str:
    """As the gateway names a replica."""
    return url.removeprefix("http://")


async def _counters(http: httpx.AsyncClient, url: str) -> dict[str, int]:
    """Prompt tokens of an engine since its start: from its cache, and not."""
    text = (await http.get(f"{url}/metrics")).text
    return {name: int(float(value)) for name, value in _PROMPT_TOKENS.findall(text)}
