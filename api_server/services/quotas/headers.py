"""What clients read of their limits: OpenAI's `x-ratelimit-*` headers. Pure."""

from collections.abc import Iterable, Sequence

from api_server.services.quotas.leases import Lease
from api_server.services.quotas.places import Places

Header = tuple[bytes, bytes]


def duration(seconds: float) -> str:
    """As OpenAI writes it, rounded up: `20ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = -int(-seconds * 1000 // 1)
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def headers_of(leases: Iterable[Lease | Places], now: float) -> Sequence[Header]:
    """Of the limits on requests and on tokens each the one that is nearest to its end.

    Reset is when all units are free again if nothing more is used.
    """
    nearest: dict[str, tuple[float, int, Lease | Places]] = {}
    for lease in leases:
        rule = lease.rule
        if rule.kind == "concurrent":
            continue
        remaining = lease.remaining(now)
        known = nearest.get(rule.kind)
        if known is None or remaining / rule.limit < known[0]:
            nearest[rule.kind] = (remaining / rule.limit, remaining, lease)
    headers: list[Header] = []
    for kind, (part, remaining, lease) in nearest.items():
        reset = lease.rule.counts_seconds if part < 1 else 0.0
        for name, value in (
            ("limit", str(lease.rule.limit)),
            ("remaining", str(remaining)),
            ("reset", duration(reset)),
        ):
            headers.append((f"x-ratelimit-{name}-{kind}".encode(), value.encode()))
    return headers
