"""Documents that were looked up in front of a question, and a short answer."""

from load_tests.scenarios.ask import Ask, World, one_question

NAME = "retrieval"


def ask(world: World, number: int) -> Ask:
    return one_question(world, NAME, number, prompt=3072, answer=24)
