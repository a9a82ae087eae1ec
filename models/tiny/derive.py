"""Makes other forms from the shipped GGUF file: a Hugging Face folder, other quantisations.

Owns reading the shipped file back; nothing here needs torch or the training's results.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from safetensors.numpy import save_file

from models.tiny import export
from models.tiny.tokenizer import LEARNED, SPECIAL, rebuild

SHIPPED: Final = Path(__file__).parent / "tiny-q8_0.gguf"


def read_tensors(path: Path) -> export.Tensors:
    """Every tensor in 32 bit, with Hugging Face's names and order of rows."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensors: export.Tensors = {}
    for ours, theirs in export.names().items():
        rows = gguf.quants.dequantize(stored[theirs].data, stored[theirs].tensor_type)
        heads = export.heads_of(ours)
        tensors[ours] = export.separate(rows, heads) if heads else np.array(rows, np.float32)
    return tensors


def read_vocabulary(path: Path) -> dict[str, Any]:
    """The tokenizer of the file, as tokenizer.json describes it."""
    fields = gguf.GGUFReader(path).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    merges: list[str] = fields["tokenizer.ggml.merges"].contents()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    described: dict[str, Any] = json.loads(rebuild(tokens, pairs).to_str())
    return described


def hugging_face(source: Path, folder: Path, dtype: str = "float16") -> None:
    """Write config, weights, tokenizer and generation settings as transformers and vLLM want.

    `dtype` is float16 or float32; MAX takes no float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = read_vocabulary(source)
    number = {name: LEARNED + place for place, name in enumerate(SPECIAL)}
    bos, eos = number["<|begin_of_text|>"], number["<|eot_id|>"]
    pad = number["<|finetune_right_pad_id|>"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": LEARNED + len(SPECIAL),
        "hidden_size": export.SHAPE.width,
        "intermediate_size": export.SHAPE.ffn,
        "num_hidden_layers": export.SHAPE.layers,
        "num_attention_heads": export.SHAPE.heads,
        "num_key_value_heads": export.SHAPE.kv_heads,
        "head_dim": export.SHAPE.head_width,
        "max_position_embeddings": export.SHAPE.context,
        "rope_theta": export.SHAPE.rope_base,
        "rms_norm_eps": export.SHAPE.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": dtype,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "model_max_length": export.SHAPE.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": export.chat_template(),
    }
    generation = {"bos_token_id": bos, "eos_token_id": [eos], "pad_token_id": pad,
                  "do_sample": False}  # fmt: skip
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", vocabulary),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    weights = {name: rows.astype(dtype) for name, rows in read_tensors(source).items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def other_gguf(source: Path, target: Path, kind: str, llama_quantize: str | None) -> None:
    """Write q8_0, f16 or f32 alone; any other kind through llama-quantize."""
    tensors, vocabulary = read_tensors(source), read_vocabulary(source)
    if kind in export.KINDS:
        export.write_gguf(target, tensors, vocabulary, kind)
        return
    if not llama_quantize:
        raise SystemExit(f"{kind} needs llama-quantize: name it with --llama-quantize")
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "tiny-f16.gguf"
        export.write_gguf(half, tensors, vocabulary, "f16")
        subprocess.run([llama_quantize, str(half), str(target), kind.upper()], check=True)


def main() -> None:
    """Command line: one form to one place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", help="hf, hf-f32, f16, f32, or a kind that llama-quantize knows")
    parser.add_argument("target", type=Path, help="the folder (hf…) or the file to write")
    parser.add_argument("--source", type=Path, default=SHIPPED)
    parser.add_argument("--llama-quantize", help="path of llama-quantize")
    args = parser.parse_args()
    if args.form in ("hf", "hf-f32"):
        dtype = "float16" if args.form == "hf" else "float32"
        hugging_face(args.source, args.target, dtype)
    else:
        other_gguf(args.source, args.target, args.form, args.llama_quantize)
    print(f"wrote {args.target}")


if __name__ == "__main__":
    main()
