"""The network in plain torch and its training: loss on what the assistant says, nothing else.

Owns the network (LlamaForCausalLM with Hugging Face's tensor names) and the recipe's numbers.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from models.tiny.corpus import BROAD, Conversation, Mix, conversations, segments
from models.tiny.shape import Shape

IGNORED: Final = -100  # what cross_entropy skips


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of the training."""

    corpus_tokens: int = 4_000_000
    batch_tokens: int = 1536
    row_tokens: int = 512
    peak_rate: float = 2e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    seed: int = 7
    mix: Mix = BROAD


class Norm(nn.Module):
    """RMS normalisation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.eps = shape.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal attention with rotary positions; two queries share one key and value head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """[batch, time, width] to the same."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, -1, self.shape.head_width).transpose(1, 2)

        def rotate(y: Tensor) -> Tensor:
            left, right = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-right, left), dim=-1) * sin

        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        groups = self.shape.heads // self.shape.kv_heads
        k, v = rotate(k).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = functional.scaled_dot_product_attention(rotate(q), k, v, attn_mask=mask)
        merged: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return merged


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] to the same."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """[batch, time, width] to the same."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Embeddings and layers; named `model` in Hugging Face's tensor names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)


class TinyLlama(nn.Module):
    """LlamaForCausalLM with tied embeddings."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Body(shape)
        half = torch.arange(0, shape.head_width, 2) / shape.head_width
        angles = torch.outer(torch.arange(shape.context), shape.rope_base**-half)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = shape.width**-0.5 * (0.35 if into_stream else 1)
                std = 0.02 if name.endswith("embed_tokens.weight") else std
                nn.init.normal_(weight, std=std)

    def forward(self, tokens: Tensor, owner: Tensor) -> Tensor:
        """[batch, time] token ids and owners to [batch, time, width] before the output layer."""
        cos = self.get_buffer("cos")[: tokens.shape[1]]
        sin = self.get_buffer("sin")[: tokens.shape[1]]
        mask = (owner[:, None, :, None] == owner[:, None, None, :]).tril()
        x: Tensor = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        out: Tensor = self.model.norm(x)
        return out


Example = tuple[list[int], list[int]]  # tokens, labels
Batch = tuple[Tensor, Tensor, Tensor]  # tokens, labels, which conversation a token belongs to
OPEN_ROWS: Final = 24


def encode(tokenizer: Tokenizer, conversation: Conversation) -> Example:
    """Tokens and labels; a label is IGNORED unless the assistant says its token."""
    tokens: list[int] = []
    labels: list[int] = []
    for text, said in segments(conversation):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokens += ids
        labels += ids if said else [IGNORED] * len(ids)
    return tokens, labels


def corpus(tokenizer: Tokenizer, recipe: Recipe) -> list[Example]:
    """Conversations until corpus_tokens are reached."""
    examples: list[Example] = []
    total = 0
    for conversation in conversations(recipe.seed, recipe.mix):
        example = encode(tokenizer, conversation)
        if len(example[0]) > recipe.row_tokens:
            continue
        examples.append(example)
        total += len(example[0])
        if total >= recipe.corpus_tokens:
            break
    return examples


def batches(examples: list[Example], recipe: Recipe, rng: Random) -> Iterator[Batch]:
    """Rows of several conversations each, drawn at random; the mask keeps them apart."""
    order = rng.sample(range(len(examples)), len(examples))
    rows: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []  # tokens left, examples
    for index in order:
        size = len(examples[index][0])
        for place, (left, row) in enumerate(open_rows):
            if size <= left:
                row.append(index)
                open_rows[place] = (left - size, row)
                break
        else:
            open_rows.append((recipe.row_tokens - size, [index]))
        if len(open_rows) > OPEN_ROWS:
            open_rows.sort(key=lambda entry: entry[0])
            rows.append(open_rows.pop(0)[1])
    rows += [row for _, row in open_rows]
    rng.shuffle(rows)
    per_batch = recipe.batch_tokens // recipe.row_tokens
    for first in range(0, len(rows) - per_batch + 1, per_batch):
        yield _stack(
            [[examples[i] for i in row] for row in rows[first : first + per_batch]], recipe
        )


def _stack(rows: list[list[Example]], recipe: Recipe) -> Batch:
    shape = (len(rows), recipe.row_tokens)
    tokens, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    owner = torch.full(shape, -1)
    for number, row in enumerate(rows):
        place = 0
        for document, (ids, wanted) in enumerate(row):
            end = place + len(ids)
            tokens[number, place:end] = torch.tensor(ids)
            labels[number, place:end] = torch.tensor(wanted)
            owner[number, place:end] = document
            place = end
    return tokens, labels, owner


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    return recipe.peak_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _loss(network: TinyLlama, batch: Batch) -> Tensor:
    """Mean over the assistant's tokens; the output layer is computed for these only."""
    tokens, labels, owner = batch
    # 16-bit products halve the time where the processor has them; the weights stay 32-bit.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(tokens[:, :-1], owner[:, :-1])
    wanted = labels[:, 1:]
    spoken = wanted != IGNORED
    logits = hidden.float()[spoken] @ network.model.embed_tokens.weight.T
    return functional.cross_entropy(logits, wanted[spoken])


def train(
    tokenizer: Tokenizer,
    recipe: Recipe,
    shape: Shape,
    path: Path,
    threads: int,
    start: Path | None = None,
) -> float:
    """Train, write the weights to path (safetensors, 32 bit) and return the minutes it took.

    With `start` it goes on from the weights in that file instead of random ones.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(threads)
    examples = corpus(tokenizer, recipe)
    rng = Random(recipe.seed)
    plan = list(batches(examples, recipe, rng))
    network = TinyLlama(shape)
    if start:
        network.load_state_dict(load_file(str(start)))
    size = sum(weight.numel() for weight in network.parameters())
    total = sum(len(tokens) for tokens, _ in examples)
    print(f"{size:,} parameters, {len(examples):,} conversations, {total:,} tokens", flush=True)
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.peak_rate,
        betas=(0.9, 0.98),
    )
    started = time.monotonic()
    recent = 0.0
    for step, batch in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, len(plan), recipe)
        loss = _loss(network, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 0 or step == len(plan) - 1:
            elapsed = time.monotonic() - started
            left = elapsed / (step + 1) * (len(plan) - step - 1)
            print(
                f"{100 * (step + 1) / len(plan):5.1f} %  {elapsed:5.0f} s gone"
                f"  {left:5.0f} s to go  loss {recent:.4f}",
                flush=True,
            )
    weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    save_file(weights, str(path))
    return (time.monotonic() - started) / 60
