"""Pages to read, a page to write."""

from load_tests.scenarios.ask import Ask, World, one_question

NAME = "long"


def ask(world: World, number: int) -> Ask:
    return one_question(world, NAME, number, prompt=512, answer=256)
