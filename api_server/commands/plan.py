"""`python -m api_server plan`: the engine's flags and the planned lines of `.env`, by memory.

The lines go to standard output, sentences for people to standard error.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from api_server.errors import SetupError
from api_server.planning import compose, env_block
from api_server.planning.flags import KEYS, check_name, is_gguf
from api_server.planning.max_sizing import LLAMA_8B_BF16
from api_server.planning.model_size import measure
from api_server.planning.planner import (
    Machine,
    ModelNames,
    Planned,
    plan_llama_cpp,
    plan_max,
)
from api_server.planning.sizing import LLAMA_8B_Q4, ModelSize
from api_server.settings import Settings
from api_server.settings.engine_file import load_engine_config

EXPLANATION = "the engine's flags and the planned lines of .env, by the machine's memory"
CONFIGS = {"llama-cpp": "configs/llama-cpp-config.yaml", "max": "configs/max-serve-config.yaml"}
DEFAULT_NAME = "llama-3.3-8b-instruct"
DEFAULT_FILE = "llama-3.3-8b-instruct-q4_k_m.gguf"
MOST_GPUS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What init.sh measured, and what the user asked for."""
    parser.add_argument("--engine", choices=["llama-cpp", "max", "external"], default="llama-cpp")
    parser.add_argument("--config", metavar="FILE", help="the engine's file (that of configs/)")
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", choices=["gpu", "cpu"], default="cpu")
    machine.add_argument(
        "--gpu-memory-mib", type=_sizes, default=(), metavar="N[,N...]", help="of each GPU"
    )
    machine.add_argument(
        "--gpus", type=_ids, default=(), metavar="I[,I...]", help="which (nvidia-smi's numbers)"
    )
    machine.add_argument("--host-memory-mib", type=_size, metavar="N", help="of the machine")
    machine.add_argument("--cores", type=_size, default=os.cpu_count() or 1, metavar="N")
    model = parser.add_argument_group("the model")
    model.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR")
    model.add_argument("--model-file", default=DEFAULT_FILE, metavar="F", help="or folder, in DIR")
    model.add_argument("--model-bytes", type=_size, metavar="N", help="of one not yet in DIR")
    model.add_argument("--model-name", default=DEFAULT_NAME, metavar="NAME", help="for clients")
    model.add_argument(
        "--tokenizer-folder", metavar="F", help="in DIR; of a GGUF file for MAX, with config.json"
    )
    files = parser.add_argument_group("compose")
    files.add_argument("--with-file", action="append", default=[], metavar="F", help="in addition")
    files.add_argument("--with-profile", action="append", default=[], metavar="P", help="as well")
    files.add_argument(
        "--write-gpus", type=Path, metavar="FILE", help="where several GPUs' engines are written"
    )
    files.add_argument("--compose-file", type=Path, default=Path(env_block.BASE_FILE))


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Raises `SetupError` for what does not fit or cannot be honoured."""
    del settings
    engine: str = arguments.engine
    gpus = () if engine == "external" else _gpus(arguments)
    values = {
        "ENGINE": engine,
        "COMPOSE_FILE": env_block.compose_files(
            len(gpus), arguments.with_file, are_chosen=bool(gpus and arguments.gpus)
        ),
        "COMPOSE_PROFILES": env_block.profiles(engine, arguments.with_profile),
    }
    said = ["The engines are elsewhere: ENGINE_URLS, ENGINE_SLOTS, ENGINE_CONTEXT_TOKENS say what."]
    if engine != "external":
        config = arguments.config or CONFIGS[engine]
        planned = _plan(arguments, engine, Path(config), gpus)
        values |= {"ENGINE_CONFIG": config} | planned.values
        said = planned.said
        if len(gpus) > 1 or (gpus and arguments.gpus):
            said = said + _write_gpus(arguments, engine, arguments.gpus or range(len(gpus)))
    text = env_block.lines(values)
    for sentence in said:
        print(sentence, file=sys.stderr)
    print(text, end="")
    return 0


def _plan(
    arguments: argparse.Namespace, engine: str, config: Path, gpus: tuple[int, ...]
) -> Planned:
    if arguments.host_memory_mib is None:
        raise SetupError("--host-memory-mib: tell how much memory the machine has.")
    tokenizer: str | None = arguments.tokenizer_folder
    names = ModelNames(
        served=check_name("--model-name", arguments.model_name),
        file=check_name("--model-file", arguments.model_file),
        tokenizer_folder=tokenizer and check_name("--tokenizer-folder", tokenizer),
    )
    machine = Machine(gpus, arguments.host_memory_mib, arguments.cores)
    model = _model_size(arguments, engine, machine)
    try:
        plan = plan_llama_cpp if engine == "llama-cpp" else plan_max
        return plan(load_engine_config(config), model, names, machine)
    except SetupError as exc:
        message = str(exc)
        names_keys = any(key in message for key in KEYS) and str(config) not in message
        raise SetupError(f"{config}: {message}" if names_keys else message) from exc


def _model_size(arguments: argparse.Namespace, engine: str, machine: Machine) -> ModelSize:
    path: Path = arguments.models_dir / arguments.model_file
    if path.exists():
        on_cpu_by_max = engine == "max" and machine.device == "cpu"
        return measure(path, "float32" if on_cpu_by_max else "auto")
    is_quantized = engine == "llama-cpp" or is_gguf(arguments.model_file)
    usual = LLAMA_8B_Q4 if is_quantized else LLAMA_8B_BF16
    return replace(usual, weight_bytes=arguments.model_bytes or usual.weight_bytes)


def _gpus(arguments: argparse.Namespace) -> tuple[int, ...]:
    if arguments.device == "cpu":
        return ()
    gpus: tuple[int, ...] = arguments.gpu_memory_mib
    if not gpus:
        raise SetupError("--device gpu: tell the memory of each GPU with --gpu-memory-mib.")
    if arguments.gpus and len(arguments.gpus) != len(gpus):
        raise SetupError("--gpus and --gpu-memory-mib: tell the memory of just those GPUs.")
    return gpus


def _write_gpus(arguments: argparse.Namespace, engine: str, ids: Sequence[int]) -> list[str]:
    target: Path | None = arguments.write_gpus
    if target is None:
        return [f"{env_block.GPUS_FILE} was not written: --write-gpus says where to."]
    base: Path = arguments.compose_file
    gpu = base.with_name(env_block.GPU_FILE)
    documents = [compose.parse(file.read_text(encoding="utf-8"), file.name) for file in (base, gpu)]
    text = compose.gpus_file(documents[0], documents[1], engine, ids)
    unfinished = target.with_name(f".{target.name}.new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(target)
    return [f"{target.name}: written, with {len(ids)} engines."]


def _size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise ValueError(text)
    return size


def _ids(text: str) -> tuple[int, ...]:
    ids = tuple(int(part) for part in text.split(","))
    if min(ids) < 0 or len(set(ids)) < len(ids):
        raise ValueError(text)
    return ids


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_size(part) for part in text.split(","))
    if len(sizes) > MOST_GPUS:
        raise ValueError(text)
    return sizes
