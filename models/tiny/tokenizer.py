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


def train(texts: Iterable[str], path: Path) -> Tokenizer:
    """Learn the vocabulary from texts without special tokens and write tokenizer.json to path."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=LEARNED,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*ROLES * 1000, *texts], trainer)
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
    tokenizer.save(str(path))
    return tokenizer


def load(path: Path) -> Tokenizer:
    """The tokenizer that `train` wrote."""
    return Tokenizer.from_file(str(path))
