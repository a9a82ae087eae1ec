"""What /proc says: CPU time and memory of processes, load and steal of the machine.

The parsers are pure; the functions at the end read the files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessTime:
    """From /proc/PID/stat: the session it belongs to, and the CPU time it used in seconds."""

    session: int
    cpu_seconds: float


def parse_process_stat(text: str, ticks_per_second: int = TICKS_PER_SECOND) -> ProcessTime:
    """The name may hold spaces and brackets: what counts begins after its last bracket."""
    fields = text.rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return ProcessTime(int(fields[3]), (user + system) / ticks_per_second)


def parse_status_bytes(text: str, key: str) -> int:
    """A size in /proc/PID/status, such as VmRSS or VmHWM; 0 when it is not there."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return 0


@dataclass(frozen=True)
class MachineTime:
    """From /proc/stat: seconds of all cores together since the machine started."""

    programs: float
    stolen: float
    total: float


def parse_machine_stat(text: str, ticks_per_second: int = TICKS_PER_SECOND) -> MachineTime:
    """`programs` is user, nice and system time; `stolen` is what other guests of the host took."""
    values = [int(value) / ticks_per_second for value in text.splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _io_wait, _irq, _soft_irq, stolen = values
    return MachineTime(user + nice + system, stolen, sum(values))


def parse_cpu_model(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unknown CPU"


def session_members(session: int) -> list[int]:
    """The processes of a session: a program started in its own, and its children."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            stat = _read(entry / "stat")
            if stat and parse_process_stat(stat).session == session:
                found.append(int(entry.name))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes used together; one that ended counts nothing."""
    stats = (_read(PROC / str(pid) / "stat") for pid in pids)
    return sum(parse_process_stat(stat).cpu_seconds for stat in stats if stat)


def memory_bytes(pids: list[int], key: str = "VmRSS") -> int:
    """Resident size (VmRSS) or its peak (VmHWM) of these processes together."""
    return sum(parse_status_bytes(_read(PROC / str(pid) / "status"), key) for pid in pids)


def machine_time() -> MachineTime:
    return parse_machine_stat(_read(PROC / "stat"))


def cpu_model() -> str:
    return parse_cpu_model(_read(PROC / "cpuinfo"))


def own_cpu_seconds() -> float:
    """CPU time of this process and of its children that ended."""
    return sum(os.times()[:4])


def _read(path: Path) -> str:
    """A file of /proc; nothing when its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@dataclass
class LoadWatch:
    """How busy the machine was with other things between `start` and `warning`."""

    start: MachineTime
    own_start: float

    @classmethod
    def begin(cls) -> "LoadWatch":
        return cls(machine_time(), own_cpu_seconds())

    def warning(self) -> str | None:
        """A sentence when other programs or other guests took part of the machine, else None."""
        now = machine_time()
        return load_warning(
            others=now.programs - self.start.programs - (own_cpu_seconds() - self.own_start),
            stolen=now.stolen - self.start.stolen,
            total=now.total - self.start.total,
        )


MAX_OTHERS_SHARE = 0.03
MAX_STOLEN_SHARE = 0.02


def load_warning(others: float, stolen: float, total: float) -> str | None:
    """Seconds of CPU that other programs used and other guests stole, out of all there were."""
    total = max(total, 1e-9)
    if others / total <= MAX_OTHERS_SHARE and stolen / total <= MAX_STOLEN_SHARE:
        return None
    return (
        f"warning: the machine was busy: other programs used {others / total:.0%} of its CPU time "
        f"and other guests {stolen / total:.0%}; measure again when it is idle."
    )
