"""A short question, a short answer."""

from load_tests.scenarios.ask import Ask, World, one_question

NAME = "short"


def ask(world: World, number: int) -> Ask:
    return one_question(world, NAME, number, prompt=32, answer=16)
