"""The affinity benchmark as a whole with tiny counts, on real engines. Says nothing of speed."""

import subprocess
import sys

from tests.local_stack import REPOSITORY


def test_conversations_find_their_prompts_in_the_cache() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--affinity", "--quick"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {
        cells[0]: [float(cell.strip("%").replace(",", "")) for cell in cells[1:]]
        for line in done.stdout.splitlines()
        if line.startswith("| ") and not line.startswith("| |")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    assert set(rows) == {"prefix affinity", "least in flight", "round robin"}
    repeatable, cached, share, lowest, whole, unevenness, first_token = rows["prefix affinity"]
    assert 0 < cached <= repeatable
    assert min(share, lowest, whole) >= 80, done.stdout
    assert unevenness >= 1
    assert first_token > 0
    assert rows["round robin"][2] < share, done.stdout
    assert rows["round robin"][5] == 1
