"""The affinity benchmark as a whole with tiny counts, on real engines. Says nothing of speed."""

import re
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
    shares = dict(re.findall(r"^\| ([a-z ]+) \|.*\| (\d+)% \|", done.stdout, re.MULTILINE))
    assert set(shares) == {"prefix affinity", "least in flight", "round robin"}
    assert int(shares["prefix affinity"]) >= 80, done.stdout
    assert int(shares["round robin"]) < int(shares["prefix affinity"]), done.stdout
