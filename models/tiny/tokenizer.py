"""The byte-level BPE tokenizer of the tiny model: 1016 learned tokens and 8 special ones.

Owns training and loading; the splitting and the names of the special tokens are Llama 3's.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

LEARNED: Final = 1016
SPECIAL: Final = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
)
ROLES: Final = ("system", "user", "assistant", "tool", "\n\n")
LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def assemble(model: models.BPE) -> Tokenizer:
    """Llama 3's splitting around a byte-level BPE."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def finish(tokenizer: Tokenizer) -> Tokenizer:
    """Add the special tokens after the learned ones, and begin-of-text before every text."""
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    first = SPECIAL[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{first} $A",
                pair=f"{first} $A {first} $B",
                special_tokens=[(first, tokenizer.token_to_id(first))],
            ),
        ]
    )
    if tokenizer.get_vocab_size() != LEARNED + len(SPECIAL):
        raise SystemExit(f"the vocabulary has {tokenizer.get_vocab_size()} tokens, not 1024")
    return tokenizer


def train(texts: Iterable[str], path: Path) -> Tokenizer:
    """Learn the vocabulary from texts without special tokens and write tokenizer.json to path."""
    tokenizer = assemble(models.BPE(ignore_merges=True))
    trainer = BpeTrainer(
        vocab_size=LEARNED,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*ROLES * 1000, *texts], trainer)
    finish(tokenizer).save(str(path))
    return tokenizer


def rebuild(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer from what a GGUF file carries: all tokens in order, and the merges."""
    vocab = {token: number for number, token in enumerate(tokens[:LEARNED])}
    return finish(assemble(models.BPE(vocab=vocab, merges=merges, ignore_merges=True)))


def load(path: Path) -> Tokenizer:
    """The tokenizer that `train` wrote."""
    return Tokenizer.from_file(str(path))
