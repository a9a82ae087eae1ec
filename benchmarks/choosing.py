"""What the choice of a replica costs a request: breaker, prefix affinity and bookkeeping on."""

import json
import statistics
import time

from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.wire import Call
from api_server.services.affinity import prefix_of
from api_server.services.requests import Generation, parse_chat
from benchmarks.figures import percentile

MOST_MICROSECONDS = 60
"""What the choice among eight may cost."""


def chat(messages: int) -> Generation:
    """A chat of so many messages after its system message, of 80 letters each."""
    said = [
        {"role": "assistant" if number % 2 else "user", "content": f"{number} " + "hello " * 13}
        for number in range(messages)
    ]
    system = {"role": "system", "content": "You answer politely and at length. " * 5}
    body = {"model": "m", "messages": [system, *said]}
    return parse_chat(json.dumps(body).encode())


def microseconds(replicas: int, messages: int, *, batches: int, requests: int) -> list[float]:
    """For each batch, what one of its requests took: prefix, choice, and both ends of the books."""
    urls = tuple(f"http://10.0.0.{number}:8080" for number in range(1, replicas + 1))
    replica_set = ReplicaSet(Model(id="m", engine=LLAMA_SERVER, replicas=urls, slots=32))
    generation = chat(messages)
    found = []
    for _ in range(batches):
        began = time.perf_counter()
        for _ in range(requests):
            prefix = prefix_of(generation) if replica_set.wants_prefix else b""
            replica = replica_set.choose(Call("/p", b"", "id", 1, prefix))
            assert replica is not None
            is_trial = replica.begin(1)
            replica.ended(1, began, is_trial, is_whole=True, error=None)
        found.append((time.perf_counter() - began) / requests * 1e6)
    return found


async def report(*, batches: int, requests: int) -> str:
    """A Markdown table: replicas and length of the chat down, microseconds across."""
    lines = [
        "| replicas | messages | us/request, median | 99th batch | of the 60 us allowed |",
        "|---:|---:|---:|---:|---:|",
    ]
    for replicas in (1, 2, 4, 8):
        for messages in (1, 50):
            found = microseconds(replicas, messages, batches=batches, requests=requests)
            median = statistics.median(found)
            lines.append(
                f"| {replicas} | {messages} | {median:.1f} | {percentile(found, 99):.1f} | "
                f"{median / MOST_MICROSECONDS:.2f} |"
            )
    return "\n".join(lines)
