"""What a process that reads files may use. It cannot take back what it gave up."""

import contextlib
import math
import resource

OPEN_FILES = 64


def limit(*, mib: int, seconds: float) -> None:
    """Of memory and of the processor; it can write no file, leave no core and open few files.

    Too much of the processor ends the process by SIGXCPU.
    """
    memory = mib * 1024 * 1024
    with contextlib.suppress(ValueError):  # macOS does not take it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu = math.ceil(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
