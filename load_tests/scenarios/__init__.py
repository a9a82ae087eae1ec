"""What is sent: a file for each scenario, with its `NAME` and `ask(world, number)`."""

from collections.abc import Callable, Mapping

from load_tests.scenarios import (
    cancellers,
    chat,
    embeddings,
    jobs,
    json_answers,
    long,
    medium,
    retrieval,
    short,
    tools,
)
from load_tests.scenarios.ask import Ask, World

_FILES = (
    *(short, medium, long, chat, retrieval),
    *(json_answers, tools, cancellers, embeddings, jobs),
)
SCENARIOS: Mapping[str, Callable[[World, int], Ask]] = {each.NAME: each.ask for each in _FILES}
