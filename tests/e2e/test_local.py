"""`make local` under everything a machine and its user can do to it."""

import concurrent.futures
import os
import pty
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api_server.local.data_dir import remove_cluster
from api_server.local.process import free_port
from tests.gguf_head import gguf_head
from tests.local_stack import (
    REPOSITORY,
    START_SECONDS,
    LocalStack,
    changed_stack_file,
    eventually,
    local_stack,
    run_command,
)

TINY = REPOSITORY / "models/tiny/tiny-q8_0.gguf"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(autouse=True)
def _engine_is_built(stack: LocalStack) -> None:
    """The session's stack came up, so the engine is in the cache."""
    assert stack.process.poll() is None


def chat(stack: LocalStack) -> str:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO)
    return answer.choices[0].message.content or ""


def test_second_start_is_ready_in_seconds_and_runs_beside_another(tmp_path: Path) -> None:
    started = time.monotonic()
    with local_stack(tmp_path / "data") as second:
        second.wait_ready(START_SECONDS)
        assert time.monotonic() - started < START_SECONDS
        assert chat(second)
        eventually(lambda: f"Ready: {second.url}/v1" in second.output, 5, "the banner")


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_leaves_nothing(tmp_path: Path, signal_: signal.Signals) -> None:
    with local_stack(tmp_path / "data") as stack:
        stack.wait_ready(START_SECONDS)
        assert len(stack.children()) >= 3
        started = time.monotonic()
        assert stack.stop(signal_) == 0
        assert time.monotonic() - started < 8
        assert stack.children() == []


@pytest.mark.alone
def test_stopping_under_load_ends_streams_with_a_typed_error(tmp_path: Path) -> None:
    """Running answers get a few seconds, then an error event; never a silent end."""
    with (
        local_stack(tmp_path / "data") as stack,
        concurrent.futures.ThreadPoolExecutor(24) as threads,
    ):
        stack.wait_ready(START_SECONDS)
        body = {"model": "tiny", "messages": HELLO, "stream": True, "ignore_eos": True}
        body |= {"max_tokens": 1900}

        def read() -> str:
            with httpx.stream(
                "POST", f"{stack.url}/v1/chat/completions", json=body, timeout=60
            ) as answer:
                return "".join(answer.iter_text())

        answers = [threads.submit(read) for _ in range(24)]

        def all_have_come() -> bool:
            health = httpx.get(f"{stack.url}/health").json()
            return bool(health["requests_in_flight"] + health["queue_size"] == 24)

        eventually(all_have_come, 10, "all requests")
        started = time.monotonic()
        assert stack.stop() == 0
        assert time.monotonic() - started < 10
        for answer in answers:
            text = answer.result(timeout=5)
            assert text.endswith("data: [DONE]\n\n") or '"code":"shutting_down"' in text
        assert any('"code":"shutting_down"' in a.result() for a in answers), "too fast a machine"
        assert stack.children() == []


def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    for number, delay in enumerate((0.05, 0.3, 0.6, 0.9, 1.3)):
        with local_stack(tmp_path / f"data{number}") as stack:
            time.sleep(delay)
            stack.process.send_signal(signal.SIGINT)
            stack.process.wait(10)
            assert stack.children() == []
            before_us = stack.output.startswith("Fatal Python error: init")
            assert before_us or "Traceback" not in stack.output


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with local_stack(tmp_path / "data") as stack:
        stack.wait_ready(START_SECONDS)
        stack.process.kill()
        stack.process.wait()
        eventually(lambda: stack.children() == [], 5, "no orphans")


def test_kill_9_of_the_engine_is_told_and_mended(tmp_path: Path) -> None:
    with local_stack(tmp_path / "data") as stack:
        stack.wait_ready(START_SECONDS)
        os.kill(stack.engine_pid(), signal.SIGKILL)
        eventually(lambda: not stack.is_ready(), 5, "readiness tells of the loss")
        stack.wait_ready(20)
        assert chat(stack)
        eventually(lambda: "the engine is back" in stack.output, 5, "the operator is told")


def test_kill_9_of_the_gateway_is_mended_and_its_clients_only_wait(tmp_path: Path) -> None:
    """The supervisor holds the port: who comes meanwhile waits in its queue."""
    with local_stack(tmp_path / "data") as stack:
        stack.wait_ready(START_SECONDS)
        pid = next(pid for pid, line in stack.children() if "api_server serve" in line)
        os.kill(pid, signal.SIGKILL)
        assert chat(stack)
        eventually(lambda: "the gateway is back" in stack.output, 5, "the operator is told")
        assert "killed by signal 9" in stack.output


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_several_gateway_workers_serve_and_leave_nothing(
    tmp_path: Path, signal_: signal.Signals
) -> None:
    config = changed_stack_file(tmp_path, gateway={"workers": 2})
    with local_stack(tmp_path / "data", STACK_CONFIG=config) as stack:
        stack.wait_ready(START_SECONDS)
        assert chat(stack)
        gateways = [pid for pid, line in stack.children() if "api_server serve" in line]
        assert len(gateways) == 3, "a parent and two workers"
        assert b"llm_gateway_workers 2\n" in httpx.get(f"{stack.url}/metrics").content
        stack.stop(signal_)
        eventually(lambda: stack.children() == [], 5, "no process is left")


def test_stopped_engine_is_unready_and_replaced(tmp_path: Path) -> None:
    config = changed_stack_file(tmp_path, local={"hang_seconds": 3})
    with local_stack(tmp_path / "data", STACK_CONFIG=config) as stack:
        stack.wait_ready(START_SECONDS)
        os.kill(stack.engine_pid(), signal.SIGSTOP)
        eventually(lambda: not stack.is_ready(), 5, "readiness tells of the hang")
        stack.wait_ready(20)
        assert chat(stack)
        assert "was silent for 3 s" in stack.output


def failing(data_dir: Path, **environment: str) -> str:
    """Run a `make local` that cannot work; give what it says."""
    started = time.monotonic()
    with local_stack(data_dir, **environment) as stack:
        assert stack.process.wait(30) == 1
        assert time.monotonic() - started < 30
        assert stack.children() == []
        assert "Traceback" not in stack.output
        return stack.output


def test_same_data_directory_twice(stack: LocalStack) -> None:
    output = failing_at(stack.data_dir)
    assert f"process {stack.process.pid}" in output
    assert "DATA_DIR=" in output
    assert stack.is_ready()


def test_taken_port(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        output = failing(tmp_path / "data", PORT=str(port))
    assert f"Port {port} on 127.0.0.1 is taken" in output
    assert "choose another: PORT=" in output


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"not a model", "is no GGUF file"),
        (b"GGUF\x03\0\0\0", "damaged or cut short"),
        (TINY.read_bytes()[:2_000_000], "damaged or cut short"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "without a model"),
    ],
)
def test_file_that_is_no_model(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(content)
    assert fragment in failing(tmp_path / "data", MODEL=str(path))


def test_missing_model_file(tmp_path: Path) -> None:
    output = failing(tmp_path / "data", MODEL=str(tmp_path / "none.gguf"))
    assert "none.gguf cannot be read" in output
    assert "MODEL" in output


def test_model_that_does_not_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:
        file.write(gguf_head({"general.architecture": "llama", "llama.block_count": 32}))
        file.truncate(2 * 1024**4)
    output = failing(tmp_path / "data", MODEL=str(path))
    assert "huge.gguf needs about 20" in output
    assert "GiB are free" in output


def test_damaged_model_ends_with_the_engines_last_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(TINY.read_bytes()[:-50])
    output = failing(tmp_path / "data", MODEL=str(path))
    assert "the engine ended while starting" in output
    assert "engine.log" in output


def test_unwritable_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = failing_at(tmp_path / "file/data")
    assert "cannot be written" in output
    assert "DATA_DIR" in output


def failing_at(data_dir: Path) -> str:
    done = run_command("local", DATA_DIR=str(data_dir), PORT=str(free_port()))
    assert done.returncode == 1
    return done.stderr


def test_foreign_host(tmp_path: Path) -> None:
    output = failing(tmp_path / "data", HOST="no.such.host.invalid")
    assert "HOST no.such.host.invalid" in output


def test_broken_llama_server_is_explained(tmp_path: Path) -> None:
    fake = tmp_path / "llama-server"
    fake.write_text("#!/bin/sh\necho 'version: 1'\n")
    fake.chmod(0o755)
    output = failing(tmp_path / "data", LLAMA_SERVER=str(fake))
    assert "--jinja" in output
    assert "LLAMA_SERVER" in output


def test_ctrl_c_in_a_terminal_as_a_user_types_it(tmp_path: Path) -> None:
    """The real `make`, a real terminal, the real key: the whole foreground group gets SIGINT."""
    port = free_port()
    make = f"make local PORT={port} DATA_DIR={tmp_path / 'data'}"
    with subprocess.Popen(
        ["script", "-qfec", make, "/dev/null"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as terminal:
        stack = LocalStack(terminal, port, tmp_path / "data", tmp_path / "unused")
        eventually(stack.is_ready, START_SECONDS, "the stack is ready")
        assert terminal.stdin is not None
        terminal.stdin.write("\x03")
        terminal.stdin.flush()
        output, _ = terminal.communicate(timeout=15)
        remove_cluster(stack.data_dir / "postgres")
    assert "Ready: " in output
    assert "stopped" in output
    assert "Traceback" not in output
    assert stack.children() == []


def test_closing_the_terminal_stops_everything(tmp_path: Path) -> None:
    """`make` is its session's leader then, gets the SIGHUP, and passes none of it on."""
    port = free_port()
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "make", "local", f"PORT={port}", f"DATA_DIR={tmp_path / 'data'}"],
        cwd=REPOSITORY,
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        text=True,
    ) as make:
        os.close(other_end)
        stack = LocalStack(make, port, tmp_path / "data", tmp_path / "unused")
        try:
            eventually(stack.is_ready, START_SECONDS, "the stack is ready")
            os.close(terminal)
            eventually(lambda: stack.children() == [], 10, "all of it has ended")
        finally:
            make.terminate()
            remove_cluster(stack.data_dir / "postgres")


def reset(data_dir: Path) -> str:
    return run_command("reset", DATA_DIR=str(data_dir)).stderr


def test_reset_removes_what_make_local_wrote_and_nothing_else(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "thesis.txt").write_text("years of work")
    assert "nothing to remove" in reset(data_dir)
    with local_stack(data_dir) as stack:
        stack.wait_ready(START_SECONDS)
        assert f"process {stack.process.pid}" in reset(data_dir)
        stack.stop()
    assert "other files there are kept" in reset(data_dir)
    assert [path.name for path in data_dir.iterdir()] == ["thesis.txt"]


def test_two_that_start_together_on_one_port(tmp_path: Path) -> None:
    port = str(free_port())
    with (
        local_stack(tmp_path / "a", PORT=port) as one,
        local_stack(tmp_path / "b", PORT=port) as two,
    ):
        both = (one, two)
        eventually(lambda: any(s.process.poll() == 1 for s in both), 20, "one of them gives up")
        loser, winner = (one, two) if one.process.poll() == 1 else (two, one)
        assert f"Port {port} on 127.0.0.1 is taken" in loser.output
        winner.wait_ready(START_SECONDS)
        assert chat(winner)


def test_loop_of_links_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path)
    assert "error: " in failing(tmp_path / "data", MODEL=str(path))
    assert "error: " in failing(tmp_path / "data", MODEL="~no-such-user/x.gguf")
