"""Generated tools with questions that need them: schemas, calls, results, closing answers.

Names of tools and parameters vary so much that the model has to read the schema it is shown.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from models.tiny import words

Tool = dict[str, Any]
Draw = Callable[[Random, bool], Any]


def _number(low: int, high: int) -> Draw:
    return lambda rng, _held: rng.randint(low, high)


def _one_of(*choices: str) -> Draw:
    return lambda rng, _held: rng.choice(choices)


def _city(rng: Random, held: bool) -> str:  # the shape of a Draw
    return words.pick_city(rng, held=held)


def _name(rng: Random, held: bool) -> str:
    return words.pick_name(rng, held=held)


def _word(rng: Random, held: bool) -> str:
    return words.pick_word(rng, held=held)


def _phrase(rng: Random, held: bool) -> str:
    word = words.pick_word(rng, held=held)
    return rng.choice(
        (word, f"the {word}", f"my {word}", f"{word} {words.pick_word(rng, held=held)}")
    )


def _code(rng: Random, _held: bool) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.choice((1, 2, 3))))
    return rng.choice(
        (letters, f"{letters}{rng.randint(1, 99)}", f"{letters}-{rng.randint(1, 99)}")
    )


def _sum(rng: Random, _held: bool) -> str:
    return f"{rng.randint(1, 99)} {rng.choice('+-*/')} {rng.randint(1, 99)}"


def _file_name(rng: Random, held: bool) -> str:
    return words.pick_word(rng, held=held) + rng.choice((".txt", ".md", ".py"))


def _day(rng: Random, _held: bool) -> str:
    return f"20{rng.randint(20, 40)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _clock(rng: Random, _held: bool) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


_WEATHER = _one_of("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy")
_LANGUAGE = _one_of("French", "German", "Spanish", "Italian", "Greek", "Polish", "Dutch", "Danish")
_ROOM = _one_of("kitchen", "bedroom", "bathroom", "hall", "office", "garage", "garden", "cellar")
_MONEY = _one_of("EUR", "USD", "GBP", "JPY", "CHF", "SEK", "PLN", "CAD")


@dataclass(frozen=True, slots=True)
class Family:
    """One purpose a tool can have. The last entry of `names` and `asks` is held out."""

    names: tuple[str, ...]
    purposes: tuple[str, ...]
    slots: dict[str, tuple[Draw, tuple[str, ...]]]  # slot -> how to draw it, parameter names
    asks: tuple[str, ...]
    results: dict[str, Draw] = field(default_factory=dict)
    answer: str = "Done."


_A_B: Final[dict[str, tuple[Draw, tuple[str, ...]]]] = {
    "a": (_number(0, 99), ("a", "x", "first", "left", "n1")),
    "b": (_number(0, 99), ("b", "y", "second", "right", "n2")),
}

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        ("get_weather", "weather", "current_weather", "get_current_weather", "check_weather",
         "weather_report", "getWeather", "get_forecast", "fetch_weather"),
        ("Get the weather for a city", "Current weather in a place", "Look up the weather",
         "Get the current weather in a given location"),
        {"city": (_city, ("city", "location", "place", "town", "city_name", "where"))},
        ("What is the weather in {city}?", "What's the weather like in {city}?",
         "How is the weather in {city}?", "How is the weather in {city} today?",
         "Tell me the weather in {city}.", "What is the weather like in {city} today?",
         "Give me the weather for {city}.", "Is it warm in {city}?", "Is it raining in {city}?",
         "What's the weather in {city} right now?", "Can you check the weather in {city}?"),
        {"condition": _WEATHER, "temperature": _number(-9, 38)},
        "It is {condition} and {temperature} degrees in {city}.",
    ),
    Family(
        ("get_time", "current_time", "get_current_time", "clock", "local_time", "time_in"),
        ("Get the time in a city", "Current local time", "Tell the time of a place"),
        {"city": (_city, ("city", "place", "location", "timezone", "town"))},
        ("What time is it in {city}?", "What is the time in {city}?",
         "Tell me the time in {city}.", "How late is it in {city}?",
         "What's the time in {city} now?"),
        {"time": _clock},
        "It is {time} in {city}.",
    ),
    Family(
        ("send_message", "message", "send_text", "send_email", "notify", "write_to"),
        ("Send a message to a person", "Send someone a text", "Write to a person"),
        {"name": (_name, ("to", "recipient", "name", "person", "contact")),
         "text": (_phrase, ("text", "message", "body", "content"))},
        ("Send a message to {name} saying {text}.", "Write {text} to {name}.",
         "Tell {name}: {text}", "Text {text} to {name}.", "Send {name} the message {text}."),
    ),
    Family(
        ("set_timer", "timer", "start_timer", "countdown", "new_timer"),
        ("Set a timer", "Start a timer in minutes", "Wait some minutes"),
        {"minutes": (_number(1, 90), ("minutes", "duration", "time", "length", "mins"))},
        ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.",
         "Wake me in {minutes} minutes.", "Start a {minutes} minute timer."),
    ),
    Family(
        ("add", "add_numbers", "sum", "plus", "addition"),
        ("Add two numbers", "Sum of two numbers"), _A_B,
        ("What is {a} plus {b}?", "Add {a} and {b}.", "What is {a} + {b}?",
         "Add {a} to {b}.", "What is the sum of {a} and {b}?", "How much is {a} plus {b}?"),
        {"result": _number(0, 200)}, "The result is {result}.",
    ),
    Family(
        ("multiply", "times", "product", "multiply_numbers", "mul"),
        ("Multiply two numbers", "Product of two numbers"), _A_B,
        ("What is {a} times {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}.",
         "What is the product of {a} and {b}?", "How much is {a} times {b}?"),
        {"result": _number(0, 9000)}, "The result is {result}.",
    ),
    Family(
        ("calculate", "calculator", "calc", "evaluate", "compute", "solve"),
        ("Evaluate an expression", "A calculator", "Do arithmetic"),
        {"sum": (_sum, ("expression", "formula", "input", "expr"))},
        ("What is {sum}?", "Calculate {sum}.", "How much is {sum}?", "Work out {sum}.",
         "Compute {sum}."),
        {"result": _number(-90, 9000)}, "The result is {result}.",
    ),
    Family(
        ("search", "web_search", "search_web", "find_pages", "lookup", "google"),
        ("Search the web", "Find pages about something", "Look something up"),
        {"query": (_phrase, ("query", "q", "text", "term", "keywords"))},
        ("Search the web for {query}.", "Search for {query}.", "Look up {query}.",
         "Find pages about {query}.", "Find something about {query}."),
        {"hits": _number(0, 50)}, "I found {hits} results for {query}.",
    ),
    Family(
        ("play_song", "play_music", "play", "music", "start_song"),
        ("Play a song", "Play music"),
        {"song": (_phrase, ("song", "title", "track", "name"))},
        ("Play {song}.", "Play the song {song}.", "Put on {song}.", "I want to hear {song}."),
    ),
    Family(
        ("set_light", "switch_light", "light", "lamp", "control_light"),
        ("Switch the light of a room", "Turn a light on or off"),
        {"room": (_ROOM, ("room", "place", "where")),
         "state": (_one_of("on", "off"), ("state", "value", "status"))},
        ("Turn {state} the light in the {room}.", "Turn the {room} light {state}.",
         "Switch the light in the {room} {state}.", "Switch {state} the {room} light."),
    ),
    Family(
        ("translate", "translate_text", "translator", "translation"),
        ("Translate a text", "Translate text into a language"),
        {"text": (_word, ("text", "word", "input", "phrase")),
         "language": (_LANGUAGE, ("language", "to", "target", "lang"))},
        ("Translate {text} into {language}.", "Translate {text} to {language}.",
         "What is {text} in {language}?", "How do you say {text} in {language}?"),
        {"translation": _word}, "In {language} it is {translation}.",
    ),
    Family(
        ("get_price", "price", "price_of", "get_product_price", "check_price"),
        ("Get the price of a product", "Look up a price"),
        {"item": (_word, ("product", "item", "name", "article"))},
        ("What is the price of {item}?", "How much does {item} cost?", "What does {item} cost?",
         "Tell me the price of {item}."),
        {"price": _number(1, 500)}, "The price of {item} is {price}.",
    ),
    Family(
        ("get_stock", "stock_price", "get_stock_price", "quote", "share_price"),
        ("Get the price of a stock", "Share price by symbol"),
        {"symbol": (_code, ("symbol", "ticker", "stock", "code"))},
        ("What is the stock price of {symbol}?", "What does the share {symbol} cost?",
         "Tell me the stock price of {symbol}.", "How is the stock {symbol} doing?"),
        {"price": _number(1, 900)}, "The price of {symbol} is {price}.",
    ),
    Family(
        ("add_reminder", "remind", "reminder", "set_reminder", "create_reminder"),
        ("Set a reminder", "Remind the user of something"),
        {"text": (_phrase, ("text", "task", "about", "what"))},
        ("Remind me of {text}.", "Set a reminder for {text}.", "Remind me about {text}.",
         "Please remind me of {text}."),
    ),
    Family(
        ("convert", "convert_currency", "exchange", "currency", "convert_money"),
        ("Convert money", "Convert an amount into another currency"),
        {"amount": (_number(1, 999), ("amount", "value", "sum")),
         "source": (_MONEY, ("from", "source", "from_currency")),
         "target": (_MONEY, ("to", "target", "to_currency"))},
        ("Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?",
         "Change {amount} {source} into {target}."),
        {"result": _number(1, 999)}, "{amount} {source} is {result} {target}.",
    ),
    Family(
        ("add_item", "add_to_list", "list_add", "put_on_list", "shopping_add"),
        ("Add an item to the shopping list", "Put something on the list"),
        {"item": (_word, ("item", "thing", "product", "entry"))},
        ("Add {item} to the list.", "Put {item} on the list.", "Add {item} to my shopping list.",
         "Put {item} on my shopping list."),
    ),
    Family(
        ("read_file", "open_file", "load_file", "cat", "get_file"),
        ("Read a file", "Return the content of a file"),
        {"path": (_file_name,
                  ("path", "file", "filename", "file_path"))},
        ("Read the file {path}.", "Open {path}.", "Show me {path}.", "What is in {path}?",
         "Read {path}."),
        {"content": _phrase}, "The file says: {content}",
    ),
    Family(
        ("get_user", "find_user", "user", "load_user", "lookup_user"),
        ("Find a user by number", "Load a user"),
        {"id": (_number(1, 9999), ("id", "user_id", "number", "user"))},
        ("Who is user {id}?", "Show me user {id}.", "Find user {id}.", "Look up user {id}.",
         "Load user {id}."),
        {"name": _name}, "User {id} is {name}.",
    ),
    Family(
        ("get_order", "order_status", "track_order", "check_order", "find_order"),
        ("Get the status of an order", "Track an order"),
        {"order": (_code, ("order_id", "order", "id", "number"))},
        ("Where is my order {order}?", "What is the status of order {order}?",
         "Track order {order}.", "Check my order {order}.", "Where is order {order}?"),
        {"status": _one_of("shipped", "delivered", "on its way", "cancelled", "waiting")},
        "Your order {order} is {status}.",
    ),
    Family(
        ("book_table", "reserve", "reserve_table", "reservation", "book"),
        ("Book a table", "Reserve a table in a restaurant"),
        {"people": (_number(1, 12), ("people", "guests", "seats", "persons")),
         "place": (_city, ("restaurant", "place", "where", "location"))},
        ("Book a table for {people} at {place}.", "Reserve a table for {people} people at {place}.",
         "I need a table for {people} at {place}.", "Get me a table for {people} at {place}."),
    ),
    Family(
        ("get_date", "today", "current_date", "date", "what_day"),
        ("Get the date of today", "Today's date"), {},
        ("What is the date?", "What day is it?", "What is the date today?", "What is today's date?",
         "Which day is it today?"),
        {"date": _day},
        "Today is {date}.",
    ),
    Family(
        ("roll_dice", "dice", "throw_dice", "roll"),
        ("Roll a dice", "Throw a dice"), {},
        ("Roll a dice.", "Throw the dice.", "Roll the dice for me.", "Please roll a dice."),
        {"result": _number(1, 6)}, "The result is {result}.",
    ),
)  # fmt: skip

_VERBS = ("get", "find", "look_up", "fetch", "read", "show", "load", "query", "check", "lookup")
_NOUNS = (
    "size", "age", "owner", "weight", "height", "address", "phone", "email", "score", "level",
    "author", "title", "year", "speed", "rating", "distance", "salary", "balance", "status",
    "version", "length", "population", "mayor", "color", "stock", "menu", "license", "rank",
)  # fmt: skip
_HELD_NOUNS = ("depth", "budget", "manager", "capacity", "brand", "origin")
_KEYS = ("name", "id", "key", "target", "subject", "object", "entity", "of", "item", "value")
_GENERIC_ASKS = (
    "What is the {noun} of {value}?", "Tell me the {noun} of {value}.",
    "Show me the {noun} of {value}.", "Find the {noun} of {value}.", "{noun} of {value}?",
    "Get the {noun} of {value}.", "Look up the {noun} of {value}.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One question with the tool that answers it."""

    tool: Tool
    ask: str
    arguments: dict[str, Any]
    result: str
    answer: str

    @property
    def name(self) -> str:
        """The tool's name as its schema shows it."""
        return str(self.tool["function"]["name"])


def _schema(rng: Random, name: str, purpose: str, parameters: dict[str, str]) -> Tool:
    """An OpenAI tool; `parameters` maps a parameter's name to its JSON type."""
    properties: dict[str, dict[str, str]] = {}
    for key, kind in parameters.items():
        properties[key] = {"type": kind}
        if rng.random() < 0.25:
            example = words.pick_word(rng, held=False)
            texts = (f"The {key}", f"The {key} to use", f"The {key}, e.g. {example}")
            properties[key]["description"] = rng.choice(texts)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    has_option = rng.random() < 0.15  # a parameter that no question asks for
    if has_option:
        option = rng.choice(("unit", "units", "format", "limit", "mode", "style", "verbose"))
        if option not in properties:
            properties[option] = {"type": rng.choice(("string", "string", "integer"))}
    if has_option or (parameters and rng.random() < 0.85):
        schema["required"] = list(parameters)
    if rng.random() < 0.15:
        schema["additionalProperties"] = False
    description = purpose if rng.random() < 0.85 else rng.choice(("", purpose + "."))
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


def _choose(rng: Random, options: tuple[str, ...], *, held: bool) -> str:
    """The last option when held, else any other one."""
    return options[-1] if held else rng.choice(options[:-1])


def _rename(rng: Random, name: str) -> str:
    """Sometimes another spelling or an invented addition, so that names are copied."""
    draw = rng.random()
    if draw < 0.12:
        return f"{name}_{words.invented_word(rng)}"
    if draw < 0.2:
        return f"{words.invented_word(rng, 1)}_{name}"
    if draw < 0.28:
        first, *rest = name.split("_")
        return first + "".join(part.capitalize() for part in rest)
    return name


def generic_use(rng: Random, *, held: bool) -> ToolUse:
    """A tool for one attribute of one thing, such as find_owner(key)."""
    noun = rng.choice(_HELD_NOUNS if held else _NOUNS)
    value = rng.choice((_name, _city, _phrase, _code))(rng, held)
    name = _rename(rng, f"{rng.choice(_VERBS)}_{noun}")
    key = rng.choice(_KEYS) if rng.random() < 0.75 else words.invented_word(rng, 1)
    purpose = rng.choice((f"Get the {noun}", f"Find the {noun} of something", f"Look up a {noun}"))
    tool = _schema(rng, name, purpose, {key: "string"})
    result = rng.choice((_number(1, 999), _word, _name))(rng, held)
    ask = _choose(rng, _GENERIC_ASKS, held=held).format(noun=noun, value=value)
    return ToolUse(
        tool=tool,
        ask=ask[0].upper() + ask[1:],
        arguments={key: value},
        result=_result_text(rng, {noun: result}),
        answer=f"The {noun} of {value} is {result}.",
    )


def _result_text(rng: Random, values: dict[str, Any]) -> str:
    """A tool's reply: mostly JSON, the bare value at times when there is only one."""
    if len(values) == 1 and rng.random() < 0.35:
        return str(next(iter(values.values())))
    items = list(values.items())
    rng.shuffle(items)
    compact = rng.random() < 0.25
    return json.dumps(dict(items), separators=(",", ":") if compact else (", ", ": "))


def family_use(rng: Random, family: Family, *, held: bool) -> ToolUse:
    """One question for a tool of the family, with all names drawn anew."""
    values: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    types: dict[str, str] = {}
    for slot, (draw, keys) in family.slots.items():
        values[slot] = draw(rng, held)
        key = rng.choice(keys) if rng.random() < 0.88 else words.invented_word(rng, 1)
        while key in arguments:
            key = words.invented_word(rng, 1)
        arguments[key] = values[slot]
        types[key] = "integer" if isinstance(values[slot], int) else "string"
    name = _rename(rng, _choose(rng, family.names, held=held))
    results = {key: draw(rng, held) for key, draw in family.results.items()}
    ask = _choose(rng, family.asks, held=held).format(**values)
    return ToolUse(
        tool=_schema(rng, name, rng.choice(family.purposes), types),
        ask=ask,
        arguments=arguments,
        result=_result_text(rng, results or {"status": "ok"}),
        answer=family.answer.format(**values, **results),
    )


def tool_use(rng: Random, *, held: bool) -> tuple[ToolUse, list[Tool]]:
    """A question, and the list of one to three tools it is asked with."""
    use = generic_use(rng, held=held)
    family: Family | None = None
    if rng.random() < 0.7:
        family = rng.choice(FAMILIES[:1] * 2 + FAMILIES)
        use = family_use(rng, family, held=held)
    tools = [use.tool]
    others = [each for each in FAMILIES if each is not family]
    # A calculator beside an adder would make the right choice a matter of taste.
    sums = {"add", "multiply", "calculate"}
    if family and family.names[0] in sums:
        others = [each for each in others if each.names[0] not in sums]
    for other in rng.sample(others, rng.choice((0, 0, 0, 1, 1, 2))):
        tool = family_use(rng, other, held=False).tool
        if tool["function"]["name"] not in {each["function"]["name"] for each in tools}:
            tools.append(tool)
    rng.shuffle(tools)
    return use, tools
