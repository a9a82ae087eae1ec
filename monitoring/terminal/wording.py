"""Figures as people read them. Pure."""

from collections.abc import Mapping

NOTHING = "-"


def milliseconds(seconds: float | None) -> str:
    """4.2 ms, 840 ms, 1,620 ms, 12.3 s."""
    if seconds is None:
        return NOTHING
    if seconds >= 9.9995:
        return f"{seconds:,.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:,.0f} ms"


def age(seconds: float) -> str:
    """0.4 s, 12 s, 3 min, 2 h, 9 days."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def rate(per_second: float) -> str:
    """0.25, 20.4, 1,234."""
    digits = 0 if per_second >= 999.95 else 1 if per_second >= 9.995 else 2
    return f"{per_second:,.{digits}f}"


def percent(share: float | None) -> str:
    """0.05 %, 12.3 %."""
    if share is None:
        return NOTHING
    return f"{share * 100:.2f} %" if share < 0.0995 else f"{share * 100:.1f} %"


def number(count: int | None) -> str:
    """1,234."""
    return NOTHING if count is None else f"{count:,}"


def counts(counted: Mapping[str, int]) -> str:
    """engine 3, shed 1."""
    return ", ".join(f"{name} {number(count)}" for name, count in counted.items()) or "none"


def plain(text: str) -> str:
    """What a gateway or a client sent, harmless for a terminal and one column a letter."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
