"""The steps of the proof on the machine it is for: engine, model, runs, report."""

import asyncio
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from api_server.errors import SetupError
from api_server.local.process import last_lines
from api_server.local.recipe import MB, format_seconds
from api_server.local.terminal import Say
from gpu_proof.batching import between, offloaded
from gpu_proof.engine import Engine, build_for_cuda, find_for_cpu
from gpu_proof.gpus import Gpu, look_at_gpus
from gpu_proof.loads import (
    KNEE,
    Load,
    command,
    is_worth_starting,
    knee_of,
    loads_of,
)
from gpu_proof.model import SEED, model_bytes, write_model
from gpu_proof.places import Places
from gpu_proof.records import Records, key_of, read_records, write_records
from gpu_proof.serving import Stack, run_load, serving
from gpu_proof.shapes import Shape

LOAD_TESTER_SPOKE = (0, 1, 3)
"""Its exit codes after a run: all well, errors among the requests, a run that does not count."""

SAID_LINES = 30
"""Of the load tester's own words are kept."""


class NotFinishedError(Exception):
    """The time of this call is over; the next one goes on."""


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for. Paths are absolute; `ends_at`: on the monotonic clock."""

    places: Places
    device: Literal["cuda", "cpu"]
    shape: Shape
    slots: int
    rates: tuple[float, ...]
    seconds: float
    knee_seconds: float
    ends_at: float | None
    cache_home: Path
    llama_server: str | None

    @property
    def model(self) -> Path:
        return self.places.models / self.shape.file_name

    def left_seconds(self) -> float | None:
        """Of this call; None: no limit."""
        return None if self.ends_at is None else self.ends_at - time.monotonic()

    def gpus(self) -> list[Gpu]:
        """Raises SetupError when there should be some and are none."""
        return look_at_gpus() if self.device == "cuda" else []


class Proof:
    """Does the steps; what is done is written down, and not done again."""

    def __init__(self, wanted: Wanted, say: Say) -> None:
        self._wanted = wanted
        self._say = say
        self._path = wanted.places.records
        self.records: Records = read_records(self._path)

    async def build(self) -> Engine:
        """The engine. Raises SetupError, or NotFinishedError when the time is over."""
        wanted, began = self._wanted, time.monotonic()
        try:
            async with asyncio.timeout(wanted.left_seconds()):
                if wanted.device == "cuda":
                    engine = await build_for_cuda(wanted.places, wanted.gpus(), self._say)
                else:
                    explicit, home = wanted.llama_server, wanted.cache_home
                    engine = await find_for_cpu(home, explicit, self._say)
        except TimeoutError as exc:
            raise NotFinishedError("the engine is not compiled yet; what is, is kept") from exc
        key = key_of(engine.made_of, str(engine.server))
        if not self.records.is_done("build", key):
            self._note("build", key, began, engine.made_of)
        self._say.line(f"engine: {engine.server}")
        return engine

    def make_model(self) -> Path:
        """The model's file. Raises SetupError."""
        shape, path = self._wanted.shape, self._wanted.model
        key = key_of(asdict(shape), SEED)
        if self.records.is_done("model", key) and path.exists():
            return path
        began, size = time.monotonic(), model_bytes(shape)
        written = 0

        def count(size_of_piece: int) -> None:
            nonlocal written
            written += size_of_piece
            self._say.progress(f"writing {path.name}: {written // MB} of {size // MB} MB")

        try:
            write_model(shape, path, count)
        except OSError as exc:
            raise SetupError(f"{path} cannot be written: {exc}") from exc
        found = {"file": path.name, "bytes": path.stat().st_size, "shape": asdict(shape)}
        self._note("model", key, began, found)
        took = format_seconds(time.monotonic() - began)
        self._say.line(f"model: {path} ({path.stat().st_size / MB:.0f} MB) in {took}")
        return path

    async def run(self) -> None:
        """All loads that are not done. Raises SetupError, or NotFinishedError."""
        wanted = self._wanted
        engine, model = await self.build(), self.make_model()
        loads = loads_of(wanted.rates, wanted.seconds, wanted.slots)
        if wanted.knee_seconds:
            loads.append(knee_of(wanted.knee_seconds))
        run_key = key_of(engine.made_of, asdict(wanted.shape), wanted.slots, wanted.device)
        left = [load for load in loads if not self._is_done(load, run_key)]
        keys = {load.name: self._load_key(load, run_key) for load in loads}
        self._note("plan", run_key, time.monotonic(), {"loads": keys})
        if not left:
            return
        wanted.places.logs.mkdir(parents=True, exist_ok=True)
        gpus = wanted.gpus()
        memory = gpus[0].memory_mib if gpus else None
        began = time.monotonic()
        logs = wanted.places.logs
        async with serving(engine.server, model, wanted.slots, memory, logs) as stack:
            self._note("stack", run_key, began, self._described(stack))
            for load in left:
                await self._one(load, run_key, stack)

    def _described(self, stack: Stack) -> dict[str, Any]:
        """What was started, and on what. Raises SetupError for layers that are not on the GPU."""
        wanted = self._wanted
        log = stack.engine_log.read_text(errors="replace")
        layers = offloaded(log)
        if wanted.device == "cuda" and (layers is None or layers[0] < layers[1]):
            tail = last_lines(stack.engine_log, 5)
            raise SetupError(f"the engine has not all layers on the GPU ({layers}): {tail}")
        return {
            "device": wanted.device,
            "gpus": [asdict(gpu) for gpu in wanted.gpus()],
            "offloaded": layers,
            "plan": stack.plan,
            "slots": stack.slots,
        }

    async def _one(self, load: Load, run_key: str, stack: Stack) -> None:
        wanted = self._wanted
        left = wanted.left_seconds()
        if not is_worth_starting(load, left):
            raise NotFinishedError(f"there is no time left for {load.name} in this call")
        out = wanted.places.work / "runs" / load.name
        self._say.line(f"{load.name}: {' '.join(load.arguments)}")
        before, began = await stack.counters(), time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        most = load.most_seconds if left is None else min(load.most_seconds, left)
        try:
            code, lines = await run_load(command(load, stack.gateway, out), most)
        except TimeoutError as exc:
            if most < load.most_seconds:
                raise NotFinishedError(f"{load.name} took longer than this call") from exc
            code, lines = None, [f"given up after {most:g} s"]
            self._say.line(f"{load.name}: {lines[0]}")
        # The knee is the last: whatever came of it stands in the report, with all that came before.
        if code not in (*LOAD_TESTER_SPOKE, None) and load.name != KNEE:
            raise SetupError(f"{load.name} did not run: {' '.join(lines[-3:])}")
        try:
            batching = between(before, await stack.counters(), stack.slots)
        except ValueError as exc:
            raise SetupError(f"{load.name}: {exc}; see {stack.engine_log}") from exc
        found = {
            "exit_code": code,
            "batching": batching.as_dict(),
            "gpus": [asdict(gpu) for gpu in wanted.gpus()],
            "said": lines[-SAID_LINES:],
        }
        self._note(f"run {load.name}", self._load_key(load, run_key), began, found)

    def _load_key(self, load: Load, run_key: str) -> str:
        return key_of(run_key, load.arguments)

    def _is_done(self, load: Load, run_key: str) -> bool:
        return self.records.is_done(f"run {load.name}", self._load_key(load, run_key))

    def _note(self, name: str, key: str, began: float, found: dict[str, Any]) -> None:
        self.records = self.records.having(name, key, time.monotonic() - began, found)
        write_records(self._path, self.records)
