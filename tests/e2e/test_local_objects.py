"""The object store of `make local`, from outside: it keeps files, comes back, and goes away."""

import os
import signal
import time
from pathlib import Path

import httpx

from tests.local_stack import LocalStack, kept_stack, local_stack, run_command
from tests.s3 import S3Server, running_s3

SMALL = {"file": ("a.txt", b"hello")}


def object_store_pid(stack: LocalStack) -> int:
    return next(pid for pid, line in stack.children() if "serve s3" in line)


def kept(stack: LocalStack) -> str:
    answer = httpx.post(
        f"{stack.url}/v1/files", files=SMALL, data={"purpose": "user_data"}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    id_: str = answer.json()["id"]
    return id_


def content(stack: LocalStack, file_id: str) -> httpx.Response:
    return httpx.get(f"{stack.url}/v1/files/{file_id}/content", timeout=20)


def test_files_outlive_the_object_store_and_the_stack(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with kept_stack(data_dir) as stack:
        stack.wait_ready(120)
        file_id = kept(stack)
        assert content(stack, file_id).content == b"hello"
        pid = object_store_pid(stack)
        lines = {line for each, line in stack.children() if each == pid}
        assert not [line for line in lines if "AUTH" in line or "auth" in line]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (answer := content(stack, file_id)).status_code != 200:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert object_store_pid(stack) != pid
    with local_stack(data_dir) as stack:
        stack.wait_ready(60)
        assert content(stack, file_id).content == b"hello"
    done = run_command("reset", DATA_DIR=str(data_dir))
    assert done.returncode == 0, done.stderr
    assert not (data_dir / "objects").exists()


def test_an_object_store_elsewhere_is_used_instead(tmp_path: Path) -> None:
    with running_s3() as server:
        assert isinstance(server, S3Server)
        with local_stack(tmp_path / "data", **server.variables) as stack:
            stack.wait_ready(120)
            kept(stack)
            assert not [line for _, line in stack.children() if "serve s3" in line]
            assert [each.name for each in server.folder.iterdir()] == ["stack-files"]
    assert not (tmp_path / "data/objects").exists()


def test_without_a_network_the_rest_starts_and_says_what_is_missing(tmp_path: Path) -> None:
    """On a machine without rclone; its PATH has everything else."""
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    with local_stack(tmp_path / "first") as stack:
        stack.wait_ready(120)
        engine = str(Path(f"/proc/{stack.engine_pid()}/exe").readlink())
    with local_stack(tmp_path / "data", LLAMA_SERVER=engine, **nowhere) as stack:
        stack.wait_ready(120)
        assert "going on without files: " in stack.output
        answer = httpx.post(f"{stack.url}/v1/files", files=SMALL, data={"purpose": "user_data"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "dependency_down")
