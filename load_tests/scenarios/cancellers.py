"""Long answers whose readers leave in the middle."""

from load_tests.scenarios.ask import Ask, World, one_question

NAME = "cancellers"
ANSWER = 256


def ask(world: World, number: int) -> Ask:
    most = max(2, world.tokens(ANSWER) // 4)
    leave_after = world.random("leave", number).randint(1, most)
    return one_question(world, NAME, number, prompt=64, answer=ANSWER, leave_after=leave_after)
