"""Users for Locust: `locust -f load_tests/locustfile.py --host http://127.0.0.1:8000`.

The key is OPENAI_API_KEY, the model MODEL_NAME or the first that chats. It needs what Locust brings
and nothing else. Name users to have only those: `locust -f ... Short Chat`; requests that wait for
nobody are in open_loop.py. What the entries mean: locust_entries.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also where only this is mounted

from load_tests.users import (
    Cancellers,
    Chat,
    Embeddings,
    Jobs,
    Json,
    Long,
    Medium,
    Retrieval,
    Short,
    Tools,
)

__all__ = [
    "Cancellers",
    "Chat",
    "Embeddings",
    "Jobs",
    "Json",
    "Long",
    "Medium",
    "Retrieval",
    "Short",
    "Tools",
]
