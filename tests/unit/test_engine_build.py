"""The decisions of the engine's compilation, as functions of values."""

import re
from pathlib import Path

import pytest

from api_server.errors import SetupError
from api_server.local.engine_build import REQUIREMENTS, read_recipe
from api_server.local.engine_recipe import (
    BUILD_PEAK_BYTES,
    CMAKE_FLAGS,
    cache_key,
    compile_text,
    cpu_identity,
    failure_sentence,
    find_compiler,
    format_seconds,
    is_wanted_member,
    last_error_line,
    missing_space,
    parallel_jobs,
    parse_recipe,
    parse_status,
)

LOG = Path("/cache/k.building/build.log")
GB = 10**9


def test_the_requirements_split_into_tools_and_source() -> None:
    recipe = parse_recipe(
        "# a comment\ncmake==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "ninja==2 \\\n    --hash=sha256:cc\n\n# the source\n"
        "llama-cpp-python==0.3.36 \\\n    --hash=sha256:dd"
    )
    assert recipe.tools == (
        "cmake==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "ninja==2 \\\n    --hash=sha256:cc\n"
    )
    assert recipe.source == "llama-cpp-python==0.3.36 \\\n    --hash=sha256:dd"
    assert recipe.version == "0.3.36"


def test_requirements_without_the_source_are_an_error() -> None:
    with pytest.raises(SetupError, match="pins no llama-cpp-python"):
        parse_recipe("cmake==1 --hash=sha256:aa\n")


def test_every_shipped_requirement_is_pinned_with_hashes() -> None:
    text = REQUIREMENTS.read_text()
    recipe = read_recipe()
    names = re.findall(r"^([\w-]+)==[\w.]+ \\$", recipe.tools, flags=re.MULTILINE)
    assert {"cmake", "ninja", "scikit-build-core", "pathspec"} <= set(names)
    assert recipe.tools.count("--hash=") + recipe.source.count("--hash=") == text.count("--hash=")
    assert re.fullmatch(r"[\w.]+", recipe.version)
    assert "://" not in text


def test_the_cpu_identity_ignores_the_order_of_features_and_other_cores() -> None:
    one = "processor\t: 0\nmodel name\t: Foo\nflags\t\t: sse avx2\n\nprocessor\t: 1\nflags: x"
    other = "processor\t: 0\nmodel name\t: Foo\ncpu MHz\t: 5\nflags\t\t: avx2 sse\n"
    assert cpu_identity("x86_64", one) == cpu_identity("x86_64", other)
    assert cpu_identity("x86_64", one) == ("x86_64", "Foo", "", "", "avx2", "sse")


def test_the_cpu_identity_of_an_arm_machine() -> None:
    info = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert cpu_identity("aarch64", info) == ("aarch64", "", "0x41", "0xd0c", "asimd", "fp")


def test_the_key_changes_with_version_flags_and_cpu_only() -> None:
    key = cache_key("1.0", ["-DA", "-DB"], ["x86_64", "Foo"])
    assert re.fullmatch(r"1\.0-[0-9a-f]{12}", key)
    assert cache_key("1.0", ["-DB", "-DA"], ["x86_64", "Foo"]) == key
    others = {
        cache_key("1.1", ["-DA", "-DB"], ["x86_64", "Foo"]),
        cache_key("1.0", ["-DA"], ["x86_64", "Foo"]),
        cache_key("1.0", ["-DA", "-DB"], ["x86_64", "Bar"]),
    }
    assert len(others - {key}) == 3


def test_the_build_asks_for_no_network_and_no_daemon() -> None:
    assert {"-DLLAMA_CURL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DGGML_CCACHE=OFF"} <= set(
        CMAKE_FLAGS
    )


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"), [(8, 64 * GB, 8), (8, 4 * GB, 2), (2, 64 * GB, 2), (4, GB, 1)]
)
def test_jobs_are_limited_by_cores_and_memory(cores: int, memory: int, jobs: int) -> None:
    assert parallel_jobs(cores, memory) == jobs


def test_what_a_stopped_build_left_needs_no_space_again() -> None:
    assert missing_space(BUILD_PEAK_BYTES, 0) == 0
    assert missing_space(100, 0) == BUILD_PEAK_BYTES - 100
    assert missing_space(100, BUILD_PEAK_BYTES - 100) == 0


def test_the_first_usual_compiler_is_taken() -> None:
    there = {"g++": "/bin/g++", "clang++": "/bin/clang++"}
    assert find_compiler(None, there.get) == "g++"
    assert find_compiler("", there.get) == "g++"
    assert find_compiler("clang++ -stdlib=libc++", there.get) == "clang++"


def test_a_missing_compiler_names_the_packages() -> None:
    with pytest.raises(SetupError, match=r"apt install g\+\+; .*gcc-c\+\+; .*pacman -S gcc"):
        find_compiler(None, lambda _: None)


def test_a_wrong_cxx_is_named() -> None:
    with pytest.raises(SetupError, match="CXX is 'nope -O2', but there is no program 'nope'"):
        find_compiler("nope -O2", lambda _: None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[37/210] Building CXX object a.o", (37, 210)),
        ("ninja: Entering directory `tree'", None),
        ("  [1/2] indented", None),
        ("", None),
    ],
)
def test_a_status_line_of_ninja(line: str, expected: tuple[int, int] | None) -> None:
    assert parse_status(line) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (45, "45s"), (60, "1m00s"), (80.4, "1m20s"), (3600, "1h00m"), (3900, "1h05m")],
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_progress_of_a_build_from_nothing() -> None:
    assert compile_text(total=200, done=74, run_total=200, seconds=80) == (
        "building llama-server  37 %  1m20s elapsed, about 2m20s left"
    )


def test_progress_of_a_resumed_build_goes_on_from_where_it_was() -> None:
    assert compile_text(total=200, done=10, run_total=60, seconds=20) == (
        "building llama-server  75 %  20s elapsed, about 1m40s left"
    )


def test_no_estimate_before_there_is_something_to_estimate_from() -> None:
    early = compile_text(total=200, done=2, run_total=200, seconds=3)
    assert early == "building llama-server  1 %  3s elapsed"
    none = compile_text(total=200, done=0, run_total=200, seconds=30)
    assert none == "building llama-server  0 %  30s elapsed"


def test_the_end_has_no_time_left() -> None:
    last = compile_text(total=0, done=9, run_total=9, seconds=99)
    assert last == "building llama-server  100 %  1m39s elapsed"


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
        ("cc1plus: error: x.s: No space left on device", r"^the disk is full: free some space"),
        ("OSError: [Errno 122] Disk quota exceeded", r"^the disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", r"ran out of memory: close"),
        ("NewConnectionError: Failed to establish a new connection", r"connect to the network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", r"hash is not the pinned one"),
        ("because ensurepip is not available.", r"apt install python3-venv"),
        ("a.cpp:1: error: odd", r"^doing it failed: a.cpp:1: error: odd \(.*build\.log\)$"),
    ],
)
def test_a_failure_says_what_to_do(line: str, sentence: str) -> None:
    assert re.search(sentence, failure_sentence("doing it", ["before", line, "after"], LOG))


@pytest.mark.parametrize(
    ("name", "is_plain", "wanted"),
    [
        ("pkg-1/vendor/llama.cpp/CMakeLists.txt", True, True),
        ("pkg-1/vendor/llama.cpp", True, True),
        ("pkg-1/vendor/llama.cpp/link", False, False),
        ("pkg-1/vendor/llama.cpp/../../../../etc/x", True, False),
        ("pkg-1/vendor/llama.cpp2/x", True, False),
        ("pkg-1/tests/x", True, False),
        ("/etc/passwd", True, False),
    ],
)
def test_only_plain_files_of_llama_cpp_are_unpacked(
    name: str, is_plain: bool, wanted: bool
) -> None:
    assert is_wanted_member(name, is_plain=is_plain) is wanted
