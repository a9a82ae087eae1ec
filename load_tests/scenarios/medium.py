"""A paragraph to read, some sentences to write."""

from load_tests.scenarios.ask import Ask, World, one_question

NAME = "medium"


def ask(world: World, number: int) -> Ask:
    return one_question(world, NAME, number, prompt=128, answer=48)
