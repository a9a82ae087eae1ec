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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class Alerts(Strict):
    """From where on somebody should look; what is no promise to anybody."""

    tokens_per_second: float = Field(5, gt=0)
    queue_wait_ms: Milliseconds = 500
    oldest_request_seconds: float = Field(10, gt=0)
    oldest_job_seconds: float = Field(600, gt=0)
    shed_share: float = Field(0.01, gt=0, lt=1)
    engine_deferred: float = Field(4, gt=0)
    spool_rows: int = Field(1000, gt=0)
    disk_free_share: float = Field(0.1, gt=0, lt=1)
    loop_lag_ms: Milliseconds = 100


class Slo(Strict):
    """The file as a whole. A running stack is held to the workload `typical`."""

    window_days: int = Field(ge=1, le=90)
    workloads: Mapping[str, Workload] = Field(min_length=1)
    alerts: Alerts = Alerts()


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
