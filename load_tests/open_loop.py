"""An open loop for Locust: so many users, so many requests a second, whatever the answers do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also where only this is mounted

from load_tests.users import Arrivals

__all__ = ["Arrivals"]
