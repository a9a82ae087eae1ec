"""Where the proof keeps what: inputs that travel, and work that stays on the machine."""

import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12")


@dataclass(frozen=True)
class Places:
    """inputs: written by `prepare` alone, so that it may be carried over; work: all else."""

    inputs: Path
    work: Path

    @property
    def source(self) -> Path:
        """llama.cpp, without what the build does not need."""
        return self.inputs / "llama.cpp.tar.xz"

    @property
    def tools(self) -> Path:
        """CMake and Ninja."""
        return self.inputs / "tools.tar.xz"

    @property
    def packages(self) -> Path:
        """What the gateway and the load tests import, for each Python."""
        return self.inputs / "packages.tar.xz"

    @property
    def contents(self) -> Path:
        """What the inputs are: sizes, hashes, versions."""
        return self.inputs / "contents.json"

    @property
    def site(self) -> Path:
        """The unpacked packages of this Python."""
        return self.work / "packages" / f"site-{sys.version_info[0]}.{sys.version_info[1]}"

    @property
    def engines(self) -> Path:
        """Compiled engines, an entry each."""
        return self.work / "engine"

    @property
    def models(self) -> Path:
        return self.work / "models"

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def records(self) -> Path:
        """Which steps are done."""
        return self.work / "steps.json"
