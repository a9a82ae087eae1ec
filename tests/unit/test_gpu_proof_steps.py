"""The pure parts of the GPU proof's steps: bookkeeping, choosing, finding, counting, judging."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server.errors import SetupError
from api_server.local.engine_recipe import CMAKE_FLAGS
from gpu_proof import batching, choosing, engine, figures, gpus, loads, planning, preparing, toolkit
from gpu_proof.markdown import report
from gpu_proof.places import Places
from gpu_proof.records import Records, key_of, read_records, write_records
from gpu_proof.reporting import LOG_END_BYTES, _pack_log, write_report
from gpu_proof.unpacking import unpack
from monitoring.slo import Slo

H100 = "NVIDIA H100 80GB HBM3, 81559, 5120, 580.159.04, 9.0, 118.52\n"


def test_a_step_is_done_for_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "work" / "steps.json"
    assert read_records(path).steps == {}
    key = key_of("model", {"layers": 2})
    records = Records({}).having("model", key, 1.26, {"bytes": 5})
    write_records(path, records)
    again = read_records(path)
    assert again.is_done("model", key)
    assert not again.is_done("model", key_of("model", {"layers": 3}))
    assert not again.is_done("build", key)
    assert again.found("model") == {"bytes": 5}
    assert again.steps["model"]["seconds"] == 1.3


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_record_is_as_if_nothing_were_done(tmp_path: Path, text: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text)
    assert read_records(path).steps == {}


def test_nvidia_smi_is_understood() -> None:
    (gpu,) = gpus.parse_gpus(H100)
    assert gpu == gpus.Gpu("NVIDIA H100 80GB HBM3", 81559, 5120, "580.159.04", "9.0", 118.52)
    assert gpus.parse_gpus("A, 1, 1, 2, 8.6, [N/A]\n")[0].watts is None
    with pytest.raises(SetupError, match="cannot be understood"):
        gpus.parse_gpus("No devices were found\n")


def test_only_the_gpus_own_machine_code_is_compiled() -> None:
    both = gpus.parse_gpus(H100 + H100 + "L4, 23034, 1, 580, 8.9, 20\n")
    assert gpus.architectures(both) == "89-real;90-real"


def test_nvcc_tells_its_version() -> None:
    said = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.48\n"
    assert toolkit.parse_release(said) == "13.0"
    with pytest.raises(SetupError):
        toolkit.parse_release("hello")


def test_libraries_of_wheels_get_the_names_that_a_linker_wants(tmp_path: Path) -> None:
    driver, wheel = tmp_path / "driver", tmp_path / "site" / "nvidia" / "cu13"
    (wheel / "lib").mkdir(parents=True)
    driver.mkdir()
    (driver / "libcuda.so.580").write_text("")
    (driver / "libcuda.so.1").symlink_to("libcuda.so.580")
    for name in ("cudart", "cublas", "cublasLt"):
        (wheel / "lib" / f"lib{name}.so.13").write_text("")
    wheels = toolkit.wheel_folders([str(tmp_path / "site")])
    assert wheels == [wheel]
    found = toolkit.find_libraries([driver, *(each / "lib" for each in wheels)])
    assert set(found) == set(toolkit.LIBRARIES)
    toolkit.link_libraries(found, tmp_path / "links")
    names = {link.name for link in (tmp_path / "links").iterdir()}
    assert {"libcuda.so", "libcuda.so.1", "libcublas.so", "libcublas.so.13"} <= names
    assert all(link.exists() for link in (tmp_path / "links").iterdir())


def test_the_drivers_library_is_taken_before_a_stub(tmp_path: Path) -> None:
    folders = toolkit.library_folders(tmp_path, [])
    stubs = [number for number, folder in enumerate(folders) if folder.name == "stubs"]
    assert min(stubs) > folders.index(Path("/usr/local/nvidia/lib64"))


TOP = "llama_cpp_python-0.3.36/vendor/llama.cpp"


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        (f"{TOP}/CMakeLists.txt", True),
        (f"{TOP}/ggml/src/ggml-cuda/mmq.cu", True),
        (f"{TOP}/ggml/src/ggml-cpu/ops.cpp", True),
        (f"{TOP}/tools/server/server.cpp", True),
        (f"{TOP}/ggml/src/ggml-vulkan/ggml-vulkan.cpp", False),
        (f"{TOP}/models/ggml-vocab-llama-bpe.gguf", False),
        (f"{TOP}/tools/ui/CMakeLists.txt", True),
        (f"{TOP}/scripts/ui-assets.cmake", True),
        (f"{TOP}/scripts/compare.py", False),
        (f"{TOP}/tools/ui/src/app.html", False),
        (f"{TOP}/docs/build.md", False),
        ("llama_cpp_python-0.3.36/llama_cpp/llama.py", False),
        (f"{TOP}/ggml/../../../../etc/passwd", False),
    ],
)
def test_only_what_the_build_needs_travels(name: str, is_wanted: bool) -> None:
    assert choosing.is_wanted_source(name) is is_wanted


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        ("site-3.12/uvloop/loop.cpython-312-x86_64-linux-gnu.so", True),
        ("site-3.12/locust/web.py", True),
        ("site-3.12/uvloop/loop.c", False),
        ("site-3.12/gevent/tests/test_a.py", False),
        ("site-3.12/bin/locust", False),
        ("site-3.12/locust-2.47.0.dist-info/METADATA", True),
    ],
)
def test_packages_travel_without_tests_and_sources(name: str, is_wanted: bool) -> None:
    assert choosing.is_wanted_package_file(name) is is_wanted


def test_of_cmake_its_program_and_modules_travel() -> None:
    names = ["bin/cmake", "bin/ctest", "share/cmake-4.4/Modules/FindCUDAToolkit.cmake"]
    names += ["share/cmake-4.4/Help/a.rst", "doc/cmake-4.4/a", "share/vim/b"]
    wanted = [name for name in names if choosing.is_wanted_tool(name)]
    assert wanted == ["bin/cmake", "share/cmake-4.4/Modules/FindCUDAToolkit.cmake"]


def test_equal_files_of_two_pythons_are_neighbours() -> None:
    names = ["site-3.11/a.py", "site-3.11/b.py", "site-3.12/a.py", "site-3.12/b.py"]
    assert [name[5:9] for name in choosing.in_order(names)] == ["3.11", "3.12"] * 2


def test_long_names_move_to_the_top_too(tmp_path: Path) -> None:
    """They stand in the archive's extended headers as well, and CUDA's files have such names."""
    name = "ggml/src/ggml-cuda/template-instances/fattn-mma-f16-instance-ncols1_16-ncols2_4.cu"
    file = tmp_path / "a.cu"
    file.write_text("kernel")
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as packed:
        packed.add(file, f"{TOP}/{name}")
        packed.add(file, f"{TOP}/docs/build.md")
    preparing.repack(tmp_path / "source.tar.gz", tmp_path / "llama.cpp.tar.xz")
    unpack(tmp_path / "llama.cpp.tar.xz", tmp_path / "source")
    files = [path for path in (tmp_path / "source").rglob("*") if path.is_file()]
    assert files == [tmp_path / "source" / name]
    assert files[0].read_text() == "kernel"


def test_one_folder_of_an_archive_is_unpacked(tmp_path: Path) -> None:
    for name in ("site-3.11", "site-3.12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(name)
    with tarfile.open(tmp_path / "packages.tar.xz", "w:xz") as packed:
        for name in ("site-3.11", "site-3.12"):
            packed.add(tmp_path / name, name)
    target = tmp_path / "packages"
    unpack(tmp_path / "packages.tar.xz", target, "site-3.12")
    assert [each.name for each in target.iterdir()] == ["site-3.12"]
    unpack(tmp_path / "packages.tar.xz", target, "site-3.13")
    assert not (target / "site-3.13").exists()
    unpack(tmp_path / "packages.tar.xz", tmp_path / "all")
    assert (tmp_path / "all" / "site-3.11" / "a.py").read_text() == "site-3.11"


METRICS = """# HELP llamacpp:n_decode_total Total number of llama_decode() calls
llamacpp:tokens_predicted_total {tokens}
llamacpp:n_decode_total {decodes}
llamacpp:n_busy_slots_per_decode {busy}
"""


def counters(decodes: int, busy: float) -> batching.Counters:
    return batching.counters_of(METRICS.format(tokens=1, decodes=decodes, busy=busy))


def test_busy_slots_are_those_of_the_time_between() -> None:
    """The engine's own number is an average since its start."""
    found = batching.between(counters(100, 1.0), counters(200, 16.0), 32)
    assert found.busy_per_decode == pytest.approx(31)
    assert found.is_full
    assert not batching.between(counters(100, 1.0), counters(200, 8.0), 32).is_full
    assert not batching.between(counters(100, 1.0), counters(100, 1.0), 32).is_full


def test_an_engine_that_began_anew_or_tells_nothing_is_no_proof() -> None:
    with pytest.raises(ValueError, match="anew"):
        batching.between(counters(100, 1.0), counters(5, 1.0), 32)
    with pytest.raises(ValueError, match="n_decode_total"):
        batching.counters_of("llamacpp:tokens_predicted_total 1\n")


def test_the_log_tells_what_is_on_the_gpu() -> None:
    log = "load_tensors: offloading output layer to GPU\n"
    log += "load_tensors: offloaded 33/33 layers to GPU\n"
    assert batching.offloaded(log) == (33, 33)
    assert batching.offloaded("no GPU found") is None


def test_the_plan_becomes_the_engines_and_the_gateways_settings() -> None:
    said = "ENGINE=llama-cpp\nENGINE_SLOTS=32\nENGINE_CONTEXT_TOKENS=8192\n"
    said += "LLAMA_CPP_FLAGS=-ngl all --parallel 32\nGPU with 80 GiB: 32 slots\n"
    values = planning.parse_lines(said)
    argv = planning.engine_command(Path("/e/llama-server"), Path("/m/x.gguf"), 81, values)
    assert argv[:3] == ["/e/llama-server", "--model", "/m/x.gguf"]
    assert argv[-4:] == ["-ngl", "all", "--parallel", "32"]
    variables = planning.gateway_variables(values, "http://127.0.0.1:81", Path("/c.yaml"))
    assert variables["ENGINE_URLS"] == "http://127.0.0.1:81"
    assert variables["ENGINE_SLOTS"] == "32"
    with pytest.raises(SetupError, match="LLAMA_CPP_FLAGS"):
        planning.parse_lines("ENGINE=max\n")


def test_the_shipped_engine_file_gets_the_slots() -> None:
    shipped = Path("configs/llama-cpp-config.yaml").read_text()
    content = yaml.safe_load(planning.engine_config(shipped, 32))
    assert content["batching"]["max_batch_size"] == 32
    assert content["memory"] == yaml.safe_load(shipped)["memory"]


def test_every_scenario_is_sent_at_every_rate() -> None:
    names = [load.name for load in loads.loads_of((20, 25, 30), 20, 32)]
    assert names[:3] == [loads.WARM_UP, loads.ALONE, loads.FULL]
    assert set(names[3:]) == {f"{s}-{r}" for s in ("short", "medium", "long") for r in (20, 25, 30)}
    load = loads.loads_of((20,), 20, 32)[2]
    assert loads.command(load, "http://g", Path("/out"))[:4] == [
        "--host",
        "http://g",
        "--scenario",
        "medium",
    ]
    assert "64" in load.arguments


def test_a_load_is_not_begun_that_would_outlast_the_call() -> None:
    load = loads.loads_of((20,), 20, 32)[0]
    assert loads.is_worth_starting(load, None)
    assert loads.is_worth_starting(load, load.usual_seconds)
    assert not loads.is_worth_starting(load, load.usual_seconds - 1)
    for each in (*loads.loads_of((20,), 20, 32), loads.knee_of(120)):
        assert 5 + loads.USUAL_SECONDS <= each.usual_seconds < each.most_seconds


def test_the_planner_is_told_of_the_memory_there_is() -> None:
    config, model = Path("/c.yaml"), Path("/models/m.gguf")
    on_gpu = " ".join(planning.plan_command("python", config, model, 81559, 131072))
    assert "--device gpu --gpu-memory-mib 81559 --host-memory-mib 131072" in on_gpu
    assert "--models-dir /models --model-file m.gguf" in on_gpu
    on_cpu = " ".join(planning.plan_command("python", config, model, None, 8192))
    assert "--device cpu --host-memory-mib 8192" in on_cpu
    assert "--gpu-memory-mib" not in on_cpu


def spread(value: float) -> dict[str, Any]:
    return {"mean": value, "percentiles": dict.fromkeys(("p50", "p95", "p99"), value)}


def a_result(latency: float, *, rate: float = 20, errors: int = 0, why: str = "") -> dict[str, Any]:
    stages = {"queue": 0.01, "engine": 0.05, "prompt": 0.04, "decode": 0.1, "gateway": 0.002}
    return {
        "total": {
            "latency": spread(latency),
            "first_token": spread(0.06),
            "count": 400,
            "errors": {"timeout": errors} if errors else {},
            "refused": 0,
            "tokens_per_second": 900.0,
            "requests_per_second": rate,
            "stages": {name: spread(value) for name, value in stages.items()},
        },
        "configuration": {"rate": rate, "concurrency": None, "scenarios": {"short": 1.0}},
        "seconds": 20.0,
        "invalid_because": [why] if why else [],
    }


FOUND = {"batching": {"busy_per_decode": 8.0}, "gpus": [{"used_mib": 40_000}]}
SLO = Slo.model_validate(
    {
        "window_days": 30,
        "workloads": {
            "typical": {
                "scenarios": ["short", "medium"],
                "latency_ms": {"p50": 500, "p95": 1000},
                "requests_per_second": 20,
                "error_rate": 0.001,
            }
        },
    }
)


def test_the_rest_is_what_no_stage_explains() -> None:
    row = figures.row_of("short-20", a_result(0.2), FOUND)
    assert row.stages["rest"] == pytest.approx(38)
    assert row.gateway_share == pytest.approx(0.01)
    assert row.most_gateway_share == pytest.approx(0.2)
    assert row.most_memory_mib == 40_000
    two = FOUND | {"gpus": [{"used_mib": 40_000}, {"used_mib": 50_000}]}
    assert figures.row_of("short-20", a_result(0.2), two).most_memory_mib == 50_000
    untold = a_result(0.2)
    untold["total"]["stages"] = {"engine": spread(0.05)}
    assert figures.row_of("short-20", untold, FOUND).stages["rest"] == pytest.approx(150)


def test_nothing_good_has_no_share() -> None:
    result = a_result(0.2)
    result["total"] |= {"latency": None, "first_token": None}
    row = figures.row_of("short-20", result, FOUND)
    assert row.gateway_share is None
    (verdict,) = figures.verdicts_of([row], SLO)
    assert not verdict.holds


@pytest.mark.parametrize(
    ("result", "broken"),
    [
        (a_result(0.4), ()),
        (a_result(0.6), ("p50 600 ms, promised 500",)),
        (a_result(0.4, errors=1), ("0.25% errors, promised 0.10%",)),
        (a_result(0.4, why="late"), ("late",)),
    ],
)
def test_the_promise_is_judged(result: dict[str, Any], broken: tuple[str, ...]) -> None:
    (verdict,) = figures.verdicts_of([figures.row_of("short-20", result, FOUND)], SLO)
    assert verdict.broken == broken


def test_a_load_below_the_promised_rate_is_no_proof() -> None:
    assert figures.verdicts_of([figures.row_of("a", a_result(0.1, rate=10), FOUND)], SLO) == []


def test_a_refused_request_breaks_the_promise_too() -> None:
    result = a_result(0.4, errors=1)
    result["total"]["refused"] = 3
    result["configuration"]["scenarios"] = {"short": 1.0, "medium": 1.0}
    (verdict,) = figures.verdicts_of([figures.row_of("both-20", result, FOUND)], SLO)
    assert verdict.broken == ("1.00% errors, promised 0.10%",)


def test_a_load_of_another_scenario_is_not_judged() -> None:
    result = a_result(9.0)
    result["configuration"]["scenarios"] = {"short": 1.0, "long": 1.0}
    assert figures.verdicts_of([figures.row_of("long-20", result, FOUND)], SLO) == []


def test_the_report_names_what_does_not_count() -> None:
    (gpu,) = gpus.parse_gpus(H100)
    steps: dict[str, Any] = {
        "stack": {
            "device": "cuda",
            "gpus": [vars(gpu)],
            "offloaded": [33, 33],
            "slots": 32,
            "plan": {"LLAMA_CPP_FLAGS": "-ngl all"},
        },
        "build": {"llama-cpp-python": "0.3.36", "CUDA": "13.0"},
        "model": {"file": "a.gguf", "bytes": 4_916_748_480},
        "run knee": {"said": ["25 requests/s"]},
    }
    rows = [
        figures.row_of(name, a_result(0.2, why=why), FOUND)
        for name, why in ((loads.ALONE, ""), (loads.FULL, ""), ("short-20", "sent 90 ms late"))
    ]
    hardware = {"cpu": "x", "cores": 16, "memory_bytes": 128 * 1024**3}
    text = report(steps, rows, figures.verdicts_of(rows, SLO), hardware, ["long-30"])
    assert "NVIDIA H100 80GB HBM3, 81559 MiB" in text
    assert "33 of 33" in text
    assert "**not full**" in text
    assert "short-20 (**not valid**)" in text
    assert "25 requests/s" in text
    assert "**Without a result**: long-30." in text
    assert "Not a proof" not in text
    steps["stack"]["device"] = "cpu"
    assert "Not a proof" in report(steps, rows, [], hardware, [])


def test_a_run_with_other_slots_is_no_part_of_a_report(tmp_path: Path) -> None:
    places = Places(tmp_path / "inputs", tmp_path)
    result = a_result(0.2) | {"versions": {}}
    result["hardware"] = {"cpu": "x", "cores": 16, "memory_bytes": 128 * 1024**3}
    for name in ("short-20", "short-25"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "result.json").write_text(json.dumps(result))
    stack: dict[str, Any] = {"device": "cpu", "gpus": [], "offloaded": None, "slots": 8}
    records = Records({})
    for name, key, found in (
        ("build", "a", {"llama-cpp-python": "0.3.36"}),
        ("model", "a", {"file": "a.gguf", "bytes": 1}),
        ("stack", "a", stack | {"plan": {"LLAMA_CPP_FLAGS": "-ngl all"}}),
        ("run short-20", "of 8 slots", FOUND),
        ("run short-25", "of 4 slots", FOUND),
        ("plan", "a", {"loads": {"short-20": "of 8 slots", "short-25": "of 8 slots"}}),
    ):
        records = records.having(name, key, 1.0, found)
    said = write_report(places, records, tmp_path / "report")
    assert said[-1] == "without a result: short-25"
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["name"] for row in content["loads"]] == ["short-20"]


def test_cuda_is_compiled_as_the_cpu_is_and_for_this_gpu_alone() -> None:
    found = toolkit.Toolkit(Path("/c/bin/nvcc"), "13.0", (), {})
    flags = engine.cuda_flags(found, "90-real")
    assert set(CMAKE_FLAGS) < set(flags)
    wanted = {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real"}
    assert wanted | {"-DCMAKE_CUDA_COMPILER=/c/bin/nvcc"} <= set(flags)


def test_of_a_long_log_the_package_has_both_ends(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"first" + bytes(3 * LOG_END_BYTES) + b"last")
    (tmp_path / "short").write_bytes(b"all of it")
    with tarfile.open(tmp_path / "packed", "w") as packed:
        for name in ("long", "short"):
            _pack_log(packed, tmp_path / name, name)
    with tarfile.open(tmp_path / "packed") as packed:
        found = {name: packed.extractfile(name) for name in ("long", "short")}
        said = {name: file.read() for name, file in found.items() if file is not None}
    assert said["short"] == b"all of it"
    assert said["long"].startswith(b"first")
    assert said["long"].endswith(b"last")
    assert b"bytes are left out" in said["long"]
    assert len(said["long"]) < 2.1 * LOG_END_BYTES
