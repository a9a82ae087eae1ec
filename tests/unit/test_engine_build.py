"""The decisions of the engine's compilation, as functions of values."""

import re

import pytest

from api_server.errors import SetupError
from api_server.local.engine_recipe import (
    CMAKE_FLAGS,
    ENGINE,
    compile_text,
    cpu_identity,
    find_compiler,
    is_wanted_member,
    parallel_jobs,
    parse_status,
)
from api_server.local.workshop import read_recipe

GB = 10**9


def test_every_shipped_requirement_is_pinned_with_hashes() -> None:
    text = ENGINE.requirements.read_text()
    recipe = read_recipe(ENGINE)
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


def test_the_build_asks_for_no_network_and_no_daemon() -> None:
    assert {"-DLLAMA_CURL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DGGML_CCACHE=OFF"} <= set(
        CMAKE_FLAGS
    )


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"), [(8, 64 * GB, 8), (8, 4 * GB, 2), (2, 64 * GB, 2), (4, GB, 1)]
)
def test_jobs_are_limited_by_cores_and_memory(cores: int, memory: int, jobs: int) -> None:
    assert parallel_jobs(cores, memory) == jobs


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
