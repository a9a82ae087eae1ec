"""A byte-level BPE vocabulary of any size, made by a rule: for a model whose words mean nothing.

It stands in for Llama 3's, which may not be copied: as many tokens, the same special ones at the
same distance from the end, splitting by the same expression. Any text survives a round trip, since
all bytes are tokens. The load tests' words take 1.8 tokens each, as measured with llama-server;
capitals and punctuation take more than in a vocabulary that was learned. Pure.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

SPECIALS = 256
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""By how common they are, so that a small vocabulary has the useful pieces."""

VOWELS = "aeiouy"
NORMAL, CONTROL = 1, 3
"""Token types of a GGUF file."""

_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
BEGIN, END, END_OF_TURN = 0, 1, 9
"""Numbers among the special tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """`merges` are pairs of tokens, the first to be joined first."""

    tokens: list[str]
    types: list[int]
    merges: list[str]

    def special(self, number: int) -> int:
        """The id of a special token."""
        return len(self.tokens) - SPECIALS + number


def make_vocabulary(size: int) -> Vocabulary:
    """Bytes, then pieces of words, then the special tokens. Raises ValueError for odd sizes."""
    alphabet = byte_letters()
    wanted = size - SPECIALS - len(alphabet)
    if wanted < 0:
        raise ValueError(f"{size} tokens are fewer than bytes and special tokens")
    merges = list(itertools.islice(_merges(), wanted))
    if len(merges) < wanted:
        raise ValueError(f"{size} tokens are more than there are pieces for")
    tokens = list(alphabet) + [left + right for left, right in merges]
    types = [NORMAL] * len(tokens) + [CONTROL] * SPECIALS
    tokens += [
        _NAMED.get(number) or f"<|reserved_special_token_{number}|>" for number in range(256)
    ]
    return Vocabulary(tokens, types, [f"{left} {right}" for left, right in merges])


def byte_letters() -> list[str]:
    """The letter that stands for each byte in GPT-2's form, in the order of its tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _merges() -> Iterator[tuple[str, str]]:
    """Each pair once, of pieces that were made before."""
    space = "\u0120"
    newline = "\u010a"
    yield newline, newline
    yield space, space
    pairs = [a + b for a, b in itertools.product(LETTERS, LETTERS)]
    yield from itertools.product(LETTERS, LETTERS)
    yield from ((space, letter) for letter in LETTERS)
    yield from ((space, pair) for pair in pairs)
    digits = "0123456789"
    yield from itertools.product(digits, digits)
    yield from ((a + b, c) for a, b, c in itertools.product(digits, digits, digits))
    triples = [(pair, letter) for pair in pairs for letter in LETTERS]
    yield from triples
    yield from ((space + pair, letter) for pair, letter in triples)
    spoken = [pair for pair in pairs if len(set(pair) & set(VOWELS)) == 1]
    yield from itertools.product(spoken, spoken)
    yield from ((space + a, b) for a, b in itertools.product(spoken, spoken))
    rest = [pair for pair in pairs if len(set(pair) & set(VOWELS)) != 1]
    yield from itertools.product(spoken, rest)
