"""Conversations of some turns: each turn begins with all that was said before.

What the model says is written down here, so that a turn does not depend on the answer before. A
few conversations go on side by side, so that a turn comes after the answer to the one before.
"""

from load_tests.scenarios.ask import CHAT, Ask, World
from load_tests.scenarios.words import words

NAME = "chat"
TURNS = 4
SIDE_BY_SIDE = 8
SYSTEM = 96
SAID = 32
ANSWER = 32
LONGEST = SYSTEM + (2 * TURNS - 1) * SAID


def ask(world: World, number: int) -> Ask:
    turn = number // SIDE_BY_SIDE % TURNS
    conversation = number // (SIDE_BY_SIDE * TURNS) * SIDE_BY_SIDE + number % SIDE_BY_SIDE
    per_word = world.tokens_per_word / min(world.scale, world.room(ANSWER) / LONGEST)
    first = world.first_line(NAME, conversation)
    rules = words(world.random(NAME, conversation, "rules"), int(SYSTEM / per_word))
    messages = [{"role": "system", "content": f"{first} {rules}"}]
    for step in range(2 * turn + 1):
        text = words(world.random(NAME, conversation, step), int(SAID / per_word))
        messages.append({"role": "assistant" if step % 2 else "user", "content": text})
    body = world.chat(messages, ANSWER, stream=True)
    return Ask(NAME, "stream", CHAT, body, is_warm=turn > 0)
