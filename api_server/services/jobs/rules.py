"""What the operator settled for jobs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """The section `jobs` of the settings, as the services see it. `default_model` None: the first
    one that serves text.
    """

    queue_size: int = 10_000
    timeout_seconds: float = 300.0
    max_attempts: int = 3
    lease_seconds: float = 15.0
    retention_seconds: float = 7 * 86_400.0
    polling_needs_owner: bool = False
    default_model: str | None = None
    most_sockets: int = 1000
    max_request_bytes: int = 262_144
