"""Numbers with their units, and verdicts in words. Pure."""

from load_tests.capacity import Capacity
from load_tests.gate import Check, Verdict


def milliseconds(seconds: float | None) -> str:
    """ "950 ms", "1.2 ms", "12.3 s"; a dash for nothing."""
    if seconds is None:
        return "-"
    if seconds >= 10:
        return f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
    value = 1000 * seconds
    if value < 0.05:
        return "0 ms"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def number(value: float) -> str:
    """Without zeros at its end."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}/s"


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


def size(memory_bytes: int) -> str:
    return f"{memory_bytes / 2**30:.1f} GiB"


def of_check(check: Check, value: float | None) -> str:
    """A value in the check's unit."""
    if check.unit == "ms":
        return milliseconds(None if value is None else value / 1000)
    return rate(value) if check.unit == "/s" else share(value)


def check_range(check: Check) -> str:
    """Where the truth lies."""
    if check.lower is None and check.upper is None:
        return "-"
    low = of_check(check, check.lower) if check.lower is not None else "?"
    high = of_check(check, check.upper) if check.upper is not None else "?"
    return f"{low} to {high}"


def headline(verdict: Verdict) -> str:
    """One sentence."""
    where = f" at {number(verdict.rate)} requests per second" if verdict.rate else ""
    if verdict.invalid_because:
        return f"This run does not count, so nothing is said about {verdict.workload}{where}."
    if not verdict.counted:
        return f"Nothing was measured of {verdict.workload}."
    if verdict.state == "holds":
        return f"The promise for {verdict.workload} holds{where}."
    if verdict.state == "fails":
        return f"The promise for {verdict.workload} does not hold{where}."
    return f"Too few requests to tell whether the promise for {verdict.workload} holds{where}."


def reasons(verdict: Verdict) -> list[str]:
    """What does not hold, or cannot be told; and what was not asked."""
    found = list(verdict.invalid_because)
    for check in verdict.checks:
        target = of_check(check, check.target)
        measured = of_check(check, check.measured)
        note = f" ({check.note})" if check.note else ""
        if check.state == "fails":
            bound = "at least" if check.unit == "/s" else "at most"
            sure = "" if check.is_sure or check.unit == "/s" else ", within the noise"
            found.append(f"{check.name}: {measured}, and {bound} {target} was promised{sure}{note}")
        elif check.state == "cannot tell":
            found.append(f"{check.name}: cannot be told{note}")
        elif check.state == "not asked":
            found.append(f"{check.name}: {target} was not asked{note}")
    return found


def knee(capacity: Capacity) -> str:
    """What a search found, in a sentence or two."""
    if capacity.ended == "interrupted":
        count = len(capacity.steps)
        return f"The search was interrupted after {count} {'step' if count == 1 else 'steps'}."
    if capacity.rate is None:
        what = f"No rate met the targets, not even {number(capacity.above or 0)}/s"
        return f"{what}: {capacity.limited_by}."
    met = "; ".join(target.name for target in capacity.targets)
    found = f"The knee is at {number(capacity.rate)} requests per second ({met})"
    if capacity.above is None:
        return f"{found} or higher: no higher rate was asked."
    end = f"{found}; at {number(capacity.above)}/s {capacity.limited_by}."
    if capacity.ended == "time":
        times = "once" if capacity.repeated == 1 else f"{capacity.repeated} times"
        return f"{end} Time ran out before the gap was narrower; the knee was measured {times}."
    return end
