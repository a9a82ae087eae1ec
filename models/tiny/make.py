"""The one entry: corpus, tokenizer, training, export, evaluation, in that order.

Owns the order and the work folder; every step lives in the file of its name.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from models.tiny import evaluate, export, tokenizer, train
from models.tiny.corpus import BROAD, COPYING, Mix, conversations, segments
from models.tiny.shape import Shape

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over conversations that no other round saw, going on from the last one's weights."""

    tokens: int
    peak_rate: float
    mix: Mix


# Copying (names, arguments of tools) is learned late and needs a mix of its own.
ROUNDS = (
    Round(4_000_000, 2e-3, BROAD),
    Round(2_000_000, 1.2e-3, BROAD),
    Round(1_800_000, 1.2e-3, BROAD),
    Round(6_000_000, 1.5e-3, COPYING),
    Round(4_200_000, 1.5e-3, COPYING),
)
TOKENIZER_SAMPLE = 8000  # conversations; about 0.9 M tokens


def tokenizer_texts(seed: int) -> Iterator[str]:
    """Conversations without their special tokens."""
    for conversation in islice(conversations(seed), TOKENIZER_SAMPLE):
        text = "".join(text for text, _ in segments(conversation))
        yield from re.split(r"<\|[a-z_]+\|>", text)


def main() -> None:
    """Run every step; with --llama-server also the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".local/tiny-model"))
    parser.add_argument("--out", type=Path, default=HERE / "tiny-q8_0.gguf")
    parser.add_argument("--llama-server", help="path of llama-server, for the evaluation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=train.Recipe().seed)
    parser.add_argument("--scale", type=float, default=1.0, help="of the tokens of each round")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    vocabulary = args.work / "tokenizer.json"
    weights = Path()

    print("tokenizer", flush=True)
    learned = tokenizer.train(tokenizer_texts(args.seed), vocabulary)
    print("training", flush=True)
    minutes = 0.0
    start: Path | None = None
    for number, each in enumerate(ROUNDS):
        print(f"round {number + 1} of {len(ROUNDS)}", flush=True)
        recipe = replace(
            train.Recipe(),
            seed=args.seed + number,
            peak_rate=each.peak_rate,
            corpus_tokens=int(each.tokens * args.scale),
            mix=each.mix,
        )
        weights = args.work / f"round-{number + 1}.safetensors"
        minutes += train.train(learned, recipe, Shape(), weights, args.threads, start)
        start = weights
    print(f"trained in {minutes:.1f} minutes on {args.threads} threads", flush=True)
    export.export(weights, vocabulary, args.out)
    print(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB", flush=True)
    if args.llama_server:
        sys.exit(evaluate.with_server(args.out, args.llama_server))


if __name__ == "__main__":
    main()
