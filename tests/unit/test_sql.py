"""What holds for all SQL together, in queries and in migrations."""

import re
from collections import Counter

from api_server.stores.migrations import FOLDER, LOCK
from api_server.stores.postgres import SQL


def test_no_two_things_share_an_advisory_lock() -> None:
    files = [*SQL.glob("*.sql"), *FOLDER.glob("*.sql")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    locks = Counter(re.findall(r"advisory\w*lock\((\d+)\)", text))
    locks[str(LOCK)] += 1
    assert len(locks) >= 5
    assert set(locks.values()) == {1}
