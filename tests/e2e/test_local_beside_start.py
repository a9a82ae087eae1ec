"""`make local` beside an `.env` that `make start` wrote: it serves what it always does."""

from pathlib import Path

import httpx

from tests.local_stack import REPOSITORY, local_stack
from tests.unit.test_engine_settings import ENV


def test_make_local_serves_its_own_engine_beside_the_env_file_of_make_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV)
    told = {"STACK_CONFIG": str(REPOSITORY / "configs/stack.yaml"), "PYTHONPATH": str(REPOSITORY)}
    with local_stack(tmp_path / "data", tmp_path, **told) as stack:
        stack.wait_ready(120)
        listed = httpx.get(f"{stack.url}/v1/models").raise_for_status().json()["data"]
        assert [model["id"] for model in listed] == ["tiny"]
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = httpx.post(f"{stack.url}/v1/chat/completions", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        assert stack.stop() == 0
