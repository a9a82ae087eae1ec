"""Which metrics there are, outside of our head: what rules and panels may ask for."""

from api_server.observability.metrics import FAMILIES
from monitoring.recording import recording_groups
from monitoring.slo import load_slo

OF_LLAMA_CPP = {
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    "llamacpp:n_busy_slots_per_decode",
    "llamacpp:n_decode_total",
    "llamacpp:prompt_tokens_total",
    "llamacpp:prompt_tokens_cached_total",
    "llamacpp:prompt_seconds_total",
    "llamacpp:tokens_predicted_total",
    "llamacpp:tokens_predicted_seconds_total",
}
"""Of `llama-server --metrics`; tests/e2e/test_engine_metrics.py asks a real one for each."""

OF_HAPROXY = {
    "haproxy_backend_active_servers",
    "haproxy_backend_current_sessions",
    "haproxy_backend_current_queue",
    "haproxy_backend_http_responses_total",
}
"""Of its exporter; tests/integration/test_front.py asks a real one, where there is one."""

OF_DCGM = {"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"}
"""Of etc/default-counters.csv of NVIDIA/dcgm-exporter, which its image has built in."""

OF_PROMETHEUS = {"up", "ALERTS"}


def ours() -> set[str]:
    """Every name that `/metrics` has."""
    names = set()
    for family in FAMILIES:
        endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names |= {family.name + ending for ending in endings}
    return names


def recorded() -> set[str]:
    """Every name that a recording rule makes."""
    groups: list[dict[str, list[dict[str, str]]]] = recording_groups(load_slo())  # type: ignore[assignment]
    return {rule["record"] for group in groups for rule in group["rules"]}


def real() -> set[str]:
    """Every name that something exports."""
    return ours() | OF_LLAMA_CPP | OF_HAPROXY | OF_DCGM | OF_PROMETHEUS
