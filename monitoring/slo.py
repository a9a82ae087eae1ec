"""Reads `configs/slo.yaml`, the only place where targets stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SLO_FILE = Path(__file__).resolve().parent.parent / "configs" / "slo.yaml"

Milliseconds = Annotated[int, Field(gt=0)]
Percentile = Literal["p50", "p90", "p95", "p99"]


class SloError(ValueError):
    """The file cannot be read, or a key of it is wrong; says which."""


class Strict(BaseModel):
    """An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Workload(Strict):
    """What is promised of one kind of load."""

    scenarios: list[str] = Field(min_length=1)
    latency_ms: Mapping[Percentile, Milliseconds] = Field(min_length=1)
    requests_per_second: float = Field(gt=0)
    error_rate: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _rises(self) -> "Workload":
        targets = [self.latency_ms[name] for name in sorted(self.latency_ms)]
        if targets != sorted(targets):
            raise ValueError("latency_ms: a higher percentile cannot have a lower target")
        return self


class Slo(Strict):
    """The file as a whole."""

    window_days: int = Field(ge=1, le=90)
    workloads: Mapping[str, Workload] = Field(min_length=1)


def load_slo(path: Path = SLO_FILE) -> Slo:
    """Read and check the file. Raises `SloError` with a line for each mistake."""
    try:
        return Slo.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as exc:
        raise SloError(f"{path}: {exc}") from exc
    except ValidationError as exc:
        lines = [
            f"{path}: {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()
        ]
        raise SloError("\n".join(lines)) from exc
