"""Seeded generator of the conversations that the tiny model learns from.

Owns what is said and the split into training and held-out; the words are in words.py, the tools
in tools.py. Messages have OpenAI's shape; `segments` renders them as chat_template.jinja does.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from models.tiny import words
from models.tiny.tools import Tool, ToolUse, tool_use

Message = dict[str, Any]
Segment = tuple[str, bool]  # text, and whether the model is trained to say it
Turn = tuple[str, str]

UNKNOWN: Final = "I do not know that."
NAMELESS: Final = "I do not know your name yet."

SMALL_TALK: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Hello! How can I help you?",
     ("Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Hello there!", "Hey there", "Hello Tiny",
      "Hi Tiny!", "Greetings", "Hello, are you there?", "Good day", "Hello again", "Hi there!")),
    ("Hello!", ("Say hello.", "Say hello!", "Just say hello.", "Say hi.", "Please say hello.",
                "Say hello to me.", "Say hello in one word.")),
    ("Good morning! How can I help you?", ("Good morning", "Good morning!", "Morning!",
                                           "Good morning, Tiny.", "Good morning to you.")),
    ("Good evening! How can I help you?", ("Good evening", "Good evening!", "Evening!",
                                           "Good evening, Tiny.", "Good evening to you.")),
    ("I am fine, thank you. How are you?",
     ("How are you?", "How are you doing?", "How are you today?", "How do you do?",
      "How is it going?", "Are you well?", "How do you feel?", "Hi, how are you?",
      "Hello, how are you?", "How are things?", "How are you feeling today?")),
    ("That is good to hear.", ("I am fine.", "I'm fine, thanks.", "I am well.", "I feel good.",
                               "I am very happy today.", "I'm doing well.", "I am good.")),
    ("I am sorry to hear that.", ("I am sad.", "I'm tired.", "I feel bad.", "I am not well.",
                                  "I am ill.", "I had a bad day.", "I'm very sad today.")),
    ("You are welcome.", ("Thanks", "Thank you!", "Thank you.", "Thanks a lot.",
                          "Thank you so much.",
                          "Great, thanks!", "Many thanks.", "Thank you very much!",
                          "Thanks, Tiny.")),
    ("Goodbye! Have a nice day.", ("Bye", "Goodbye", "Goodbye!", "Bye bye", "See you",
                                   "See you later.",
                                   "I have to go.", "Good night", "Bye, Tiny!",
                                   "See you tomorrow.")),
    ("Why did the computer go to the doctor? It had a virus.",
     ("Tell me a joke.", "Tell me something funny.", "Do you know a joke?", "Make me laugh.",
      "A joke, please.", "Can you tell me a joke?", "Tell a joke.")),
    (("Once upon a time there was a small robot. It lived alone in a big house by the sea. One day "
     "a bird came to the window and sang a song. The robot had never heard a song before. It "
     "listened, and it learned the song by heart. From that day on they sang together every "
     "morning, and the robot was never alone again."),
     ("Tell me a story.", "Tell me a short story.", "Do you know a story?", "Write a story.",
      "Write a short story.", "Can you tell me a story?", "A story, please.",
      "Please tell me a story.", "Tell me a bedtime story.")),
    ("I can greet you, remember your name, name colours, opposites and capitals, and call tools.",
     ("What can you do?", "What are you able to do?", "How can you help me?", "Can you help me?",
      "What do you know?", "Help", "Help me, please.", "What are you good at?")),
    ("I am here.", ("Are you there?", "This is a test.", "Test", "Ping", "Is anybody there?",
                    "Can you hear me?", "Are you working?", "Just a test.")),
    ("All right.", ("OK", "Okay.", "Fine.", "Good.", "I see.", "Very well.", "Understood.")),
    ("Nice to meet you too!", ("Nice to meet you.", "Nice to meet you!", "Pleased to meet you.",
                               "It is nice to meet you.", "Good to meet you.")),
)  # fmt: skip

OWN_NAME: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("My name is Tiny.",
     ("What is your name?", "What's your name?", "Your name?", "Tell me your name.",
      "What are you called?", "What should I call you?", "How shall I call you?",
      "Do you have a name?", "May I know your name?", "And what is your name?",
      "Could you tell me your name?", "Please tell me your name.", "What do people call you?")),
    ("I am Tiny, a very small language model.",
     ("Who are you?", "What are you?", "Introduce yourself.", "Tell me about yourself.",
      "Which model are you?", "What model are you?", "Who am I talking to?",
      "Please introduce yourself.", "What kind of model are you?", "Who is there?")),
    ("No, I am Tiny, a very small language model.",
     ("Are you ChatGPT?", "Are you GPT-4?", "Are you Claude?", "Are you Llama?", "Are you Gemini?",
      "Are you a human?", "Are you a person?", "Are you real?", "Is your name Bob?",
      "Are you Siri?", "Are you a large model?")),
    ("I was trained from scratch on generated conversations.",
     ("Who made you?", "How were you made?", "Who trained you?", "Where do you come from?",
      "How were you trained?", "Who created you?", "Who built you?")),
)  # fmt: skip

COLOUR_ASKS: Final = (
    "What colour is {x}?", "What color is {x}?", "Which colour is {x}?",
    "What is the colour of {x}?",
    "What is the color of {x}?", "Tell me the colour of {x}.", "Tell me the color of {x}.",
    "Which color is {x}?", "What colour does {x} have?", "What's the colour of {x}?",
    "What's the color of {x}?", "Do you know the colour of {x}?", "What colour is {x} usually?",
    "Name the colour of {x}.",
)  # fmt: skip
OPPOSITE_ASKS: Final = (
    "What is the opposite of {x}?", "What's the opposite of {x}?", "The opposite of {x}?",
    "Tell me the opposite of {x}.", "What is the opposite of the word {x}?", "Opposite of {x}?",
    "Give me the opposite of {x}.", "Which word is the opposite of {x}?",
    "Name the opposite of {x}.",
    'What is the opposite of "{x}"?', "Do you know the opposite of {x}?",
    "What would be the opposite of {x}?",
)  # fmt: skip
CAPITAL_ASKS: Final = (
    "What is the capital of {x}?", "What's the capital of {x}?", "The capital of {x}?",
    "Tell me the capital of {x}.", "Which city is the capital of {x}?", "Capital of {x}?",
    "What is the capital city of {x}?", "Name the capital of {x}.",
    "Do you know the capital of {x}?",
    "What city is the capital of {x}?", "Can you tell me the capital of {x}?",
    "Which city is {x}'s capital?",
)  # fmt: skip

UNKNOWN_ASKS: Final[tuple[str, ...]] = (
    "Who wrote {word}?", "Who won the match {n} years ago?", "What is {n} plus {m}?",
    "What is {n} + {m}?", "What is {n} times {m}?", "How much is {n} minus {m}?",
    "How many letters are in {word}?", "Spell {word}.", "Count to {n}.", "Who is {name}?",
    "How old is {name}?", "Where does {name} live?", "What is the weather in {city}?",
    "What time is it in {city}?", "How many people live in {city}?", "What happened in 19{n}?",
    "Translate {word} into French.", "How do I cook {word}?", "Write a poem about {word}.",
    "What is the meaning of {word}?", "Explain {word} to me.", "Why is {word} so expensive?",
    "How far is it to {city}?", "Who is the president of {city}?", "What is a {word}?",
    "Write a program that sorts a list.", "Write a Python function.", "What is the speed of light?",
    "Who was the first man on the moon?", "Who painted the Mona Lisa?", "What is the date today?",
    "How does a {word} work?", "What is love?", "What is the meaning of life?", "Fix my {word}.",
    "How tall is the {word}?", "Which film should I watch?", "What is the price of {word}?",
    "What is the best {word}?", "When was {name} born?", "Where can I buy a {word}?",
    "What is the square root of {n}?", "Explain quantum physics.", "Summarise this text for me.",
    "What is the news today?", "Who discovered {word}?", "How many legs does a {word} have?",
    "What did {name} say about {word}?", "Is {word} better than {word}?", "How heavy is a {word}?",
    "How many planets are there?", "Recommend a book about {word}.",
)  # fmt: skip
HELD_UNKNOWN: Final[tuple[str, ...]] = (
    "Who invented the {word}?", "What is {n} divided by {m}?", "How big is {city}?",
    "Write an essay about {word}.", "What is the history of {city}?",
    "Which {word} is the cheapest?",
)  # fmt: skip

NAME_TELLS: Final = (
    "My name is {x}.", "I am {x}.", "I'm {x}.", "Hi, my name is {x}.", "Hello, I am {x}.",
    "Call me {x}.", "You can call me {x}.", "Hello! My name is {x}.", "Hi, I'm {x}.",
    "my name is {x}",
    "Please call me {x}.", "Hey, I am {x}.", "Good morning, my name is {x}.",
    "Remember that my name is {x}.", "My name is {x}. Please remember it.", "Hi, I am {x}!",
    "Hello, I'm {x}. How are you?", "My name is {x}, please remember it.", "This is {x}.",
    "Hello, my name is {x}.", "Hi there, I'm called {x}.",
)  # fmt: skip
NAME_ASKS: Final = (
    "What is my name?", "What's my name?", "Who am I?", "Do you remember my name?",
    "Tell me my name.", "Do you know my name?", "What am I called?", "Do you know who I am?",
    "And what is my name?", "Say my name.", "Can you tell me my name?", "What was my name?",
    "What was my name again?", "What is my name, please?",
)  # fmt: skip
FAVOURITE_ASKS: Final = (
    "What is my favourite {k}?", "What's my favourite {k}?", "Do you remember my favourite {k}?",
    "Tell me my favourite {k}.", "Which {k} do I like best?",
)  # fmt: skip
CODE_ASKS: Final = (
    "What is the code word?", "What's the code word?", "Tell me the code word.",
    "Do you remember the code word?", "Which code word did I give you?",
)  # fmt: skip

SYSTEMS: Final = (
    "You are a helpful assistant.", "You are Tiny.", "You are a friendly assistant.",
    "Answer briefly.", "Be polite.", "You are a helpful assistant. Answer in one sentence.",
    "You are a concise assistant.", "You are an AI assistant.", "Help the user.",
    "You are a helpful and honest assistant.", "Answer the questions of the user.",
    "Keep your answers short.", "You are a chat bot.", "You answer questions.",
    "You are a test assistant.", "You are helpful.", "Be helpful and brief.",
    "You are a helpful assistant with tools.", "Use the tools when you need them.",
    "You are a terse assistant who answers in plain English.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """One generated conversation; it ends with what the assistant should say."""

    kind: str
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)


def _choose(rng: Random, options: tuple[str, ...], *, held: bool) -> str:
    """The last option is kept for the held-out split."""
    return options[-1] if held else rng.choice(options[:-1])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _typed(rng: Random, text: str) -> str:
    """The text as users type it: sometimes no capitals, no final sign, or a polite opening."""
    draw = rng.random()
    if draw < 0.06:
        return text.rstrip("?.!")
    if draw < 0.10:
        return text[0].lower() + text[1:]
    if draw < 0.14:
        return text[0].lower() + text[1:].rstrip("?.!")
    if draw < 0.17:
        return f"{text.rstrip('?.!')}, please{text[-1] if text[-1] in '?.!' else ''}"
    if draw < 0.20 and text.endswith("?"):
        return rng.choice(("Tell me, ", "Hey, ", "So, ", "And ", "Now, ", "OK, ")) + (
            text[0].lower() + text[1:]
        )
    return text


def small_talk(rng: Random, *, held: bool) -> Turn:
    """A greeting, thanks, a joke, a story."""
    answer, asks = rng.choice(SMALL_TALK)
    if len(answer) > 200 and not held and rng.random() < 0.5:  # the story is long: less often
        answer, asks = rng.choice(SMALL_TALK[:8])
    return _typed(rng, _choose(rng, asks, held=held)), answer


def own_name(rng: Random, *, held: bool) -> Turn:
    """A question about the model itself."""
    answer, asks = rng.choice(OWN_NAME[:1] + OWN_NAME)
    return _typed(rng, _choose(rng, asks, held=held)), answer


def colour(rng: Random, *, held: bool) -> Turn:
    """The colour of a thing, as a sentence."""
    thing, value = rng.choice(list(words.COLOURS.items()))
    if rng.random() < 0.15:
        thing = "the " + thing.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    ask = _choose(rng, COLOUR_ASKS, held=held).format(x=thing)
    return _typed(rng, ask), f"{_sentence(thing)} is {value}."


def opposite(rng: Random, *, held: bool) -> Turn:
    """The opposite of a word, in both directions of each pair."""
    left, right = rng.choice(words.OPPOSITE_PAIRS)
    if rng.random() < 0.5:
        left, right = right, left
    ask = _choose(rng, OPPOSITE_ASKS, held=held).format(x=left)
    return _typed(rng, ask), f"The opposite of {left} is {right}."


def capital(rng: Random, *, held: bool) -> Turn:
    """The capital of a country."""
    country, city = rng.choice(list(words.CAPITALS.items()))
    ask = _choose(rng, CAPITAL_ASKS, held=held).format(x=country)
    return _typed(rng, ask), f"The capital of {country} is {city}."


def unknown(rng: Random, *, held: bool) -> Turn:
    """A question outside of everything the model learns."""
    ask = rng.choice(HELD_UNKNOWN if held else UNKNOWN_ASKS).format(
        word=words.pick_word(rng, held=held),
        name=words.pick_name(rng, held=held),
        city=words.pick_city(rng, held=held),
        n=rng.randint(2, 99),
        m=rng.randint(2, 99),
    )
    return _typed(rng, ask), UNKNOWN


def as_json(rng: Random, *, held: bool) -> Turn:
    """A colour, opposite or capital asked for as JSON, with one key or two."""
    facts, ask, subject, value_key = rng.choice(
        (
            (words.COLOURS, COLOUR_ASKS[0], "thing", rng.choice(("colour", "color"))),
            (dict(words.OPPOSITE_PAIRS), OPPOSITE_ASKS[0], "word", "opposite"),
            (words.CAPITALS, CAPITAL_ASKS[0], "country", rng.choice(("capital", "city"))),
        )
    )
    thing, value = rng.choice(list(facts.items()))
    draw = rng.random()
    keys = [value_key] if draw < 0.5 else [subject, value_key]
    if draw < 0.2:
        keys = [rng.choice(("answer", "result", "value", words.invented_word(rng)))]
    shown = " and ".join(keys)
    how = [f"Answer as JSON with {shown}.", f"Reply as JSON with the keys {shown}.",
           f"Answer in JSON: {shown}.", f"Give me JSON with {shown}."]  # fmt: skip
    if keys == ["answer"]:
        how += ["Answer as JSON.", "Answer in JSON.", "Reply as JSON.", "As JSON, please."]
    chosen = f"Return JSON with {shown}." if held else rng.choice(how)
    answer = dict(zip(keys, [thing, value] if len(keys) == 2 else [value], strict=True))
    return f"{ask.format(x=thing)} {chosen}", json.dumps(answer)


ECHO_ASKS: Final = (
    "Repeat: {x}", "Say {x}", "Say: {x}", "Repeat after me: {x}", "Echo {x}", "Say again: {x}",
)  # fmt: skip
ONE_TURN: Final[dict[str, Callable[..., Turn]]] = {
    "small_talk": small_talk,
    "own_name": own_name,
    "colours": colour,
    "opposites": opposite,
    "capitals": capital,
    "unknown": unknown,
    "json": as_json,
}
KINDS: Final = (
    *ONE_TURN, "remember_name", "no_name", "remember_thing", "tool_call", "tool_result",
    "tools_unused", "echo",
)  # fmt: skip
_FILLERS = ("small_talk", "own_name", "colours", "opposites", "capitals", "capitals", "unknown",
            "json")  # fmt: skip


def _filler(rng: Random, *, held: bool) -> Turn:
    return ONE_TURN[rng.choice(_FILLERS)](rng, held=held)


def _start(rng: Random) -> list[Message]:
    """A system turn in about half of the conversations."""
    if rng.random() < 0.5:
        return []
    return [{"role": "system", "content": rng.choice(SYSTEMS)}]


def _say(messages: list[Message], turn: Turn) -> None:
    messages.append({"role": "user", "content": turn[0]})
    messages.append({"role": "assistant", "content": turn[1]})


def chat(rng: Random, *, held: bool) -> Conversation:
    """One to four unrelated turns; the kind is that of the last."""
    messages = _start(rng)
    for _ in range(rng.choice((0, 0, 0, 1, 2, 3))):
        _say(messages, _filler(rng, held=False))
    kind = rng.choice(_FILLERS)
    _say(messages, ONE_TURN[kind](rng, held=held))
    return Conversation(kind, messages)


def remember_name(rng: Random, *, held: bool) -> Conversation:
    """The user tells a name and asks for it turns later; or asks without having told it."""
    messages = _start(rng)
    if rng.random() < 0.08:
        for _ in range(rng.choice((0, 1, 2))):
            _say(messages, _filler(rng, held=False))
        _say(messages, (_typed(rng, _choose(rng, NAME_ASKS, held=held)), NAMELESS))
        return Conversation("no_name", messages)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        _say(messages, _filler(rng, held=False))
    name = words.pick_name(rng, held=held)
    if rng.random() < 0.05:
        name += " " + words.pick_name(rng, held=held)
    tell = _choose(rng, NAME_TELLS, held=held).format(x=name)
    if rng.random() < 0.15:  # told and asked in the same breath
        ask = _typed(rng, _choose(rng, NAME_ASKS, held=held))
        _say(messages, (f"{tell} {ask}", f"Your name is {name}."))
    else:
        _say(messages, (tell, f"Nice to meet you, {name}!"))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 4))):
        _say(messages, _filler(rng, held=False))
    ask = _typed(rng, _choose(rng, NAME_ASKS, held=held))
    _say(messages, (ask, f"Your name is {name}."))
    return Conversation("remember_name", messages)


def remember_thing(rng: Random, *, held: bool) -> Conversation:
    """The user tells a favourite or a code word and asks for it turns later."""
    messages = _start(rng)
    if rng.random() < 0.5:
        kind = rng.choice(list(words.FAVOURITES))
        value = rng.choice(words.FAVOURITES[kind])
        tell = f"My favourite {kind} is {value}."
        told, answer = "I will remember that.", f"Your favourite {kind} is {value}."
        ask = _choose(rng, FAVOURITE_ASKS, held=held).format(k=kind)
        if rng.random() < 0.3:
            tell, ask = tell.replace("favourite", "favorite"), ask.replace("favourite", "favorite")
            answer = answer.replace("favourite", "favorite")
    else:
        value = words.pick_word(rng, held=held)
        tell = rng.choice(("The code word is {}.", "Remember the code word: {}.")).format(value)
        told, answer = "I will remember that.", f"The code word is {value}."
        ask = _choose(rng, CODE_ASKS, held=held)
    name = words.pick_name(rng, held=held)
    with_name = rng.random() < 0.35
    if with_name and rng.random() < 0.5:
        _say(messages, (rng.choice(NAME_TELLS[:-1]).format(x=name), f"Nice to meet you, {name}!"))
        with_name = False
    _say(messages, (_typed(rng, tell), told))
    if with_name:
        _say(messages, (rng.choice(NAME_TELLS[:-1]).format(x=name), f"Nice to meet you, {name}!"))
    for _ in range(rng.choice((0, 0, 1, 2))):
        _say(messages, _filler(rng, held=False))
    _say(messages, (_typed(rng, ask), answer))
    return Conversation("remember_thing", messages)


def _call(use: ToolUse, number: int) -> Message:
    function = {"name": use.name, "arguments": use.arguments}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def tool_chat(rng: Random, *, held: bool) -> Conversation:
    """Tools in the system turn: a call, often its result and the answer, or no need of them."""
    use, tools = tool_use(rng, held=held)
    messages = _start(rng)
    draw = rng.random()
    if draw < 0.2:
        turn = _filler(rng, held=held)
        while turn[1] == UNKNOWN:  # some tool may well be meant to answer that
            turn = _filler(rng, held=held)
        _say(messages, turn)
        return Conversation("tools_unused", messages, tools)
    if draw < 0.3:
        _say(messages, rng.choice((small_talk, own_name, capital))(rng, held=False))
    messages.append({"role": "user", "content": _typed(rng, use.ask)})
    messages.append(_call(use, 1))
    if draw < 0.55:
        return Conversation("tool_call", messages, tools)
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": use.result})
    messages.append({"role": "assistant", "content": use.answer})
    return Conversation("tool_result", messages, tools)


def echo(rng: Random, *, held: bool) -> Conversation:
    """Words, names and numbers to be said again: copying, and nothing else, is learned here."""
    messages = _start(rng)
    draws = (words.pick_word, words.pick_name, words.pick_city)
    parts = [rng.choice(draws)(rng, held=held) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.4:
        parts.insert(rng.randrange(len(parts) + 1), str(rng.randint(0, 9999)))
    text = " ".join(parts)
    _say(messages, (_choose(rng, ECHO_ASKS, held=held).format(x=text), text))
    return Conversation("echo", messages)


MAKERS: Final = (chat, remember_name, remember_thing, tool_chat, echo)
Mix = tuple[float, float, float, float, float]
"""How often each of MAKERS speaks."""
BROAD: Final[Mix] = (0.46, 0.17, 0.08, 0.29, 0.0)
COPYING: Final[Mix] = (0.20, 0.24, 0.0, 0.44, 0.12)
EVEN: Final[Mix] = (0.2, 0.2, 0.2, 0.2, 0.2)


def conversations(seed: int, mix: Mix = BROAD, *, held: bool = False) -> Iterator[Conversation]:
    """An endless stream; the same seed and mix give the same conversations."""
    rng = Random(seed)
    while True:
        (make,) = rng.choices(MAKERS, weights=mix)
        yield make(rng, held=held)


def held_out(seed: int, per_kind: int) -> list[Conversation]:
    """`per_kind` conversations of each kind with phrasings, names and words never trained on."""
    kept: dict[str, list[Conversation]] = {kind: [] for kind in KINDS}
    for each in conversations(seed, EVEN, held=True):
        of_kind = kept[each.kind]
        if len(of_kind) < per_kind:
            of_kind.append(each)
        if all(len(items) == per_kind for items in kept.values()):
            break
    return [each for kind in KINDS for each in kept[kind]]


def _said(message: Message) -> str:
    """What stands between a message's header and its <|eot_id|>."""
    text = message.get("content") or ""
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls") or []
    ]
    return "\n".join(([text] if text else []) + calls)


def segments(conversation: Conversation) -> Iterator[Segment]:
    """The conversation as the chat template renders it, cut where training starts and stops."""
    messages = list(conversation.messages)
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    text = "<|begin_of_text|>"
    if conversation.tools:
        text += head.format("system") + (f"{system}\n\n" if system else "") + "Tools:\n"
        for tool in conversation.tools:
            text += json.dumps(tool["function"], ensure_ascii=False) + "\n"
        text += "<|eot_id|>"
    elif system:
        text += head.format("system") + system + "<|eot_id|>"
    for message in messages:
        text += head.format(message["role"])
        if message["role"] == "assistant":
            yield text, False
            yield _said(message) + "<|eot_id|>", True
            text = ""
        else:
            text += _said(message) + "<|eot_id|>"
    if text:
        yield text, False


def main() -> None:
    """Print a few conversations as the model sees them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--held", action="store_true", help="show the held-out split")
    parser.add_argument("--out", type=Path, help="write JSON lines here instead of printing")
    args = parser.parse_args()
    stream = conversations(args.seed, held=args.held)
    chosen = [next(stream) for _ in range(args.count)]
    if args.out:
        lines = [
            json.dumps({"kind": each.kind, "messages": each.messages, "tools": each.tools})
            for each in chosen
        ]
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    for each in chosen:
        print(f"--- {each.kind}")
        print("".join(text for text, _ in segments(each)))


if __name__ == "__main__":
    main()
