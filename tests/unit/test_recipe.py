"""What is made once and cached: the pure decisions that all such products share."""

import re
from pathlib import Path

import pytest

from api_server.errors import SetupError
from api_server.local.recipe import (
    MB,
    Product,
    cache_key,
    failure_sentence,
    format_seconds,
    last_error_line,
    missing_space,
    parse_recipe,
)

LOG = Path("/cache/k.building/build.log")
PRODUCT = Product("it", Path("requirements-x.txt"), "the-source", "a, b", "do without", 600 * MB)


def test_the_requirements_split_into_tools_and_source() -> None:
    recipe = parse_recipe(
        "# a comment\ncmake==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "ninja==2 \\\n    --hash=sha256:cc\n\n# the source\n"
        "the-source==0.3.36 \\\n    --hash=sha256:dd",
        "the-source",
        "requirements-x.txt",
    )
    assert recipe.tools == (
        "cmake==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "ninja==2 \\\n    --hash=sha256:cc\n"
    )
    assert recipe.source == "the-source==0.3.36 \\\n    --hash=sha256:dd"
    assert recipe.version == "0.3.36"


def test_requirements_without_the_source_are_an_error() -> None:
    with pytest.raises(SetupError, match=r"requirements-x\.txt pins no the-source"):
        parse_recipe("cmake==1 --hash=sha256:aa\n", "the-source", "requirements-x.txt")


def test_the_key_changes_with_the_version_and_with_every_part() -> None:
    key = cache_key("1.0", ["-DA", "-DB"], ["x86_64", "Foo"])
    assert re.fullmatch(r"1\.0-[0-9a-f]{12}", key)
    assert cache_key("1.0", ["-DA", "-DB"], ("x86_64", "Foo")) == key
    others = {
        cache_key("1.1", ["-DA", "-DB"], ["x86_64", "Foo"]),
        cache_key("1.0", ["-DA"], ["x86_64", "Foo"]),
        cache_key("1.0", ["-DA", "-DB"], ["x86_64", "Bar"]),
    }
    assert len(others - {key}) == 3


def test_what_a_stopped_build_left_needs_no_space_again() -> None:
    assert missing_space(600, 600, 0) == 0
    assert missing_space(600, 100, 0) == 500
    assert missing_space(600, 100, 500) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (45, "45s"), (60, "1m00s"), (80.4, "1m20s"), (3600, "1h00m"), (3900, "1h05m")],
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["FAILED: a.o", "a.cpp:3:5: error: 'x' was not declared", "   3 | x();", "ninja: b"],
            "a.cpp:3:5: error: 'x' was not declared",
        ),
        (
            ["ld: a.o: undefined reference to `f'", "collect2: error: ld returned 1 exit status"],
            "ld: a.o: undefined reference to `f'",
        ),
        (
            ["CMake Error at CMakeLists.txt:2 (message):", "", "  no threads", "", "-- Stopped"],
            "CMake Error at CMakeLists.txt:2 (message): no threads",
        ),
        (["something odd", "[3/9] Building error.cpp.o", ""], "[3/9] Building error.cpp.o"),
        ([], "it ended without a word"),
    ],
)
def test_the_line_that_says_what_went_wrong(lines: list[str], expected: str) -> None:
    assert last_error_line(lines) == expected


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "cc1plus: error: x.s: No space left on device",
            r"^the disk is full: free some space.*600 MB",
        ),
        ("OSError: [Errno 122] Disk quota exceeded", r"^the disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", r"ran out of memory: close"),
        (
            "NewConnectionError: Failed to establish a new connection",
            r"connect to the network.*, or do without$",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM",
            r"hash is not the pinned one.*x\.txt expects.*or do",
        ),
        ("because ensurepip is not available.", r"apt install python3-venv"),
        ("a.cpp:1: error: odd", r"^doing it failed: a.cpp:1: error: odd \(.*build\.log\)$"),
    ],
)
def test_a_failure_says_what_to_do(line: str, sentence: str) -> None:
    assert re.search(
        sentence, failure_sentence("doing it", ["before", line, "after"], LOG, PRODUCT)
    )
