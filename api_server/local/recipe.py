"""What is made once and cached: its recipe, its key, and what a failure of a step means. Pure.

workshop does the work; engine_recipe adds what only the compilation of the engine needs.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError

MB = 1_000_000

NETWORK_SIGNS = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "NameResolutionError",
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Read timed out",
    "ProxyError",
    "Network is unreachable",
    "Connection refused",
    "Connection reset",
)
DISK_SIGNS = ("No space left on device", "Disk quota exceeded")
MEMORY_SIGNS = (
    "Killed signal terminated program",
    "Cannot allocate memory",
    "out of memory",
    "MemoryError",
)


@dataclass(frozen=True)
class Product:
    """What is made, in the words that people are told.

    `package` is the one in `requirements` that is only downloaded; the others there are the tools
    that make something of it. `instead` is what an operator can do who cannot make it.
    """

    name: str
    requirements: Path
    package: str
    tools: str
    instead: str
    peak_bytes: int


@dataclass(frozen=True)
class Recipe:
    """The two parts of a product's requirements, each a requirements file of its own."""

    tools: str
    source: str
    version: str


def parse_recipe(text: str, package: str, file_name: str) -> Recipe:
    """Split requirements into the tools and the source package, whose version it reads.

    Raises SetupError when the text does not pin the package; file_name is only for that message.
    """
    tools: list[str] = []
    source: list[str] = []
    version = ""
    for requirement in re.findall(r"^(?!#|\s)(?:.*\\\n)*.*\n?", text, flags=re.MULTILINE):
        name, _, rest = requirement.partition("==")
        if name.strip() == package:
            source.append(requirement)
            version = rest.split()[0]
        else:
            tools.append(requirement)
    if not version:
        raise SetupError(f"{file_name} pins no {package}: restore that file from git")
    return Recipe(tools="".join(tools), source="".join(source), version=version)


def cache_key(version: str, *parts: Iterable[str]) -> str:
    """The name of a cache entry: version, then 12 hex digits over the parts, in their order."""
    text = "\n\n".join("\n".join(part) for part in parts)
    return f"{version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def missing_space(peak_bytes: int, free_bytes: int, already_used_bytes: int) -> int:
    """How many bytes the disk lacks for a build; what a stopped one left there counts."""
    return max(0, peak_bytes - already_used_bytes - free_bytes)


def format_seconds(seconds: float) -> str:
    """`45s`, `1m20s`, `1h05m`."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{left:02}s" if minutes else f"{left}s"


def last_error_line(lines: Sequence[str]) -> str:
    """The last line of a tool's output that says what went wrong, shortened to 300 characters."""
    said = [line.strip() for line in lines]
    for number in range(len(said) - 1, -1, -1):
        line = said[number]
        if line.startswith("CMake Error"):
            following = next((text for text in said[number + 1 :] if text), "")
            return f"{line} {following}"[:300]
        if re.search(r"\berror: (?!ld returned)|undefined reference", line, re.IGNORECASE):
            return line[:300]
    noise = ("ninja: build stopped", "FAILED:", "[notice]")
    telling = [line for line in said if line and not line.startswith(noise)]
    return telling[-1][:300] if telling else "it ended without a word"


def failure_sentence(step: str, lines: Sequence[str], log: Path, product: Product) -> str:
    """What to tell the operator when a step failed with this output."""
    text = "\n".join(lines)
    if any(sign in text for sign in DISK_SIGNS):
        return disk_full_sentence(log.parent, product)
    if any(sign in text for sign in MEMORY_SIGNS):
        return (
            f"{step} ran out of memory: close other programs and run this again; "
            "what is done is kept"
        )
    if "DO NOT MATCH THE HASHES" in text or "Hashes are required" in text:
        return (
            f"{step} got a file whose hash is not the pinned one: the package index or a proxy "
            f"gave other bytes than {product.requirements.name} expects (see {log}); run this "
            f"again through another index, or {product.instead}"
        )
    is_cut_off = any(sign in text for sign in NETWORK_SIGNS)
    if is_cut_off or "No matching distribution found" in text:
        fault = (
            "cannot reach the package index: connect to the network (or correct pip's index and "
            "proxy settings) and run this again, or"
            if is_cut_off
            else f"finds no {product.name} for this machine in the package index:"
        )
        return f"{step} {fault} {product.instead}"
    if "ensurepip is not available" in text:
        return (
            f"{step} needs Python's venv module: install it (Debian, Ubuntu: apt install "
            "python3-venv) and run this again"
        )
    return f"{step} failed: {last_error_line(lines)} (the whole output is in {log})"


def disk_full_sentence(folder: Path, product: Product) -> str:
    """The disk got full while building."""
    return (
        f"the disk is full: free some space where {folder} lies (a build from nothing needs "
        f"{product.peak_bytes // MB} MB) and run this again; what is done is kept"
    )
