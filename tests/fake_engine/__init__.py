"""An engine that misbehaves on demand: speaks llama-server's HTTP and plays the fault it is told.

A program of its own with nothing but the standard library: `python -m tests.fake_engine`, or the
`Dockerfile` beside this file. `orders.py` lists what it can be told, by request and as a whole.
"""

from .engine import FakeEngine, running_engine
from .orders import FAULTS

__all__ = ["FAULTS", "FakeEngine", "running_engine"]
