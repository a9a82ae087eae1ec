"""What the choice of a replica costs a request, with breaker and prefix affinity on.

Every replica is idle here: then all of them may be chosen and all are ranked, which costs most.
"""

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.wire import Call
from api_server.services.affinity import prefix_of
from api_server.services.requests import Generation, parse_chat
from benchmarks.figures import percentile

MOST_MICROSECONDS = 60
"""What the choice among eight may cost."""

HEADER = (
    "| replicas | messages | prefix us | choice us | both us | 99th percentile | of the 60 us "
    "allowed | whole call us |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Cost:
    """For each batch the microseconds that one of its requests took.

    `choice` is what follows the prefix: its hash, the standings, the choice. `call` is all that is
    done round an engine that answers at once: both of these, the try, and what is noted of the
    request from its begin to its end.
    """

    prefix: list[float]
    choice: list[float]
    both: list[float]
    call: list[float]


class _AtOnce(EngineClient):
    """An engine that costs nothing."""

    async def ask(self, *_: object, **__: object) -> bytes:
        return b"{}"


def chat(messages: int) -> Generation:
    """A chat of so many messages after its system message, of 80 letters each."""
    said = [
        {"role": "assistant" if number % 2 else "user", "content": f"{number} " + "hello " * 13}
        for number in range(messages)
    ]
    system = {"role": "system", "content": "You answer politely and at length. " * 5}
    body = {"model": "m", "messages": [system, *said]}
    return parse_chat(json.dumps(body).encode())


async def measure(replicas: int, messages: int, *, batches: int, requests: int) -> Cost:
    """So many batches of so many requests each."""
    urls = tuple(f"http://10.0.0.{number}:8080" for number in range(1, replicas + 1))
    model = Model(id="m", engine=LLAMA_SERVER, replicas=urls, slots=32)
    replica_set = ReplicaSet(model)
    for each in replica_set.replicas:
        each.client = _AtOnce(model, each.url)
    generation = chat(messages)

    def prefix() -> bytes:
        return prefix_of(generation) if replica_set.wants_prefix else b""

    known = prefix()

    def choice(of: bytes = known) -> object:
        return replica_set.choose(Call("/p", b"", "id", 1, of))

    async def call() -> object:
        return await replica_set.ask(Call("/p", b"", "id", 1, prefix()))

    cost = Cost([], [], [], [])
    for _ in range(batches):
        cost.prefix.append(_microseconds(prefix, requests))
        cost.choice.append(_microseconds(choice, requests))
        cost.both.append(_microseconds(lambda: choice(prefix()), requests))
        cost.call.append(await _microseconds_of_calls(call, requests))
    return cost


def _microseconds(work: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times * 1e6


async def _microseconds_of_calls(work: Callable[[], Awaitable[object]], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        await work()
    return (time.perf_counter() - began) / times * 1e6


async def report(*, batches: int, requests: int) -> str:
    """A Markdown table of medians: replicas and length of the chat down, costs across."""
    lines = [HEADER]
    for replicas in (1, 2, 4, 8):
        for messages in (1, 50):
            cost = await measure(replicas, messages, batches=batches, requests=requests)
            both = statistics.median(cost.both)
            lines.append(
                f"| {replicas} | {messages} | {statistics.median(cost.prefix):.1f} | "
                f"{statistics.median(cost.choice):.1f} | {both:.1f} | "
                f"{percentile(cost.both, 99):.1f} | {both / MOST_MICROSECONDS:.2f} | "
                f"{statistics.median(cost.call):.1f} |"
            )
    return "\n".join(lines)
