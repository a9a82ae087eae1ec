"""Words that prompts are made of: short and common, so that one is a token or two anywhere."""

from random import Random

WORDS = (
    *("the", "time", "day", "man", "world", "life", "hand", "part", "place", "week", "case"),
    *("company", "number", "people", "water", "story", "change", "morning", "reason", "air"),
    *("house", "night", "name", "line", "city", "tree", "sea", "boat", "river", "stone", "bread"),
    *("milk", "fire", "snow", "rain", "wind", "sun", "moon", "star", "bird", "fish", "horse"),
    *("dog", "cat", "road", "door", "window", "table", "chair", "book", "letter", "word", "song"),
    *("red", "green", "blue", "white", "black", "old", "new", "long", "short", "small", "big"),
    *("good", "cold", "hot", "fast", "slow", "early", "late", "near", "far", "open", "first"),
    *("go", "see", "come", "take", "find", "give", "tell", "work", "call", "ask", "feel", "keep"),
    *("turn", "start", "show", "hear", "play", "run", "move", "live", "stand", "bring", "hold"),
    *("and", "or", "but", "with", "under", "over", "after", "before", "between", "without"),
)


def words(random: Random, count: int) -> str:
    """So many of them."""
    return " ".join(random.choices(WORDS, k=count))
