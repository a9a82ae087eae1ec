"""An application of OpenAI's client alone runs to its end; all it is answered is by the reference.

`official_assistants.py` is a process of its own, with `make local EMBEDDINGS=on` behind a proxy.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.belongings import FAMILIES
from tests.e2e.conftest import MODEL_SECONDS
from tests.local_stack import LocalStack, local_stack
from tests.recording_proxy import Recorded, RecordingProxy, recording_proxy
from tests.wire import assert_valid

SCRIPT = Path(__file__).parent / "official_assistants.py"
OUR_OWN = re.compile(r"/api/|/(resume|events)$")
ONE = {
    "assistants": "AssistantObject",
    "threads": "ThreadObject",
    "messages": "MessageObject",
    "runs": "RunObject",
    "steps": "RunStepObject",
    "files": "OpenAIFile",
    "uploads": "Upload",
    "parts": "UploadPart",
    "vector_stores": "VectorStoreObject",
    "file_batches": "VectorStoreFileBatchObject",
}
MANY = {
    "assistants": "ListAssistantsResponse",
    "messages": "ListMessagesResponse",
    "runs": "ListRunsResponse",
    "steps": "ListRunStepsResponse",
    "files": "ListFilesResponse",
    "vector_stores": "ListVectorStoresResponse",
    "models": "ListModelsResponse",
}
GONE = {
    "assistants": "DeleteAssistantResponse",
    "threads": "DeleteThreadResponse",
    "messages": "DeleteMessageResponse",
    "files": "DeleteFileResponse",
    "vector_stores": "DeleteVectorStoreResponse",
}
VERBS = {"cancel", "complete", "submit_tool_outputs"}


def schema_of(method: str, path: str) -> str | None:
    """Of an answer that is 200; None for one that is no JSON. Fails for a path it does not know."""
    parts = path.removeprefix("/v1/").split("/")
    if parts[-1] == "content":
        return "VectorStoreFileContentResponse" if parts[0] == "vector_stores" else None
    if parts[-1] == "search":
        return "VectorStoreSearchResultsPage"
    if parts[-1] in VERBS:
        return ONE[parts[-3]]
    is_one = len(parts) % 2 == 0 and parts != ["threads", "runs"]
    kind = parts[-2] if is_one else parts[-1]
    if kind == "files" and parts[0] == "vector_stores":
        one, many = "VectorStoreFileObject", "ListVectorStoreFilesResponse"
        gone = "DeleteVectorStoreFileResponse"
        return gone if method == "DELETE" else one if is_one or method == "POST" else many
    names: Mapping[str, str] = ONE if is_one or method == "POST" else MANY
    return (GONE if method == "DELETE" else names)[kind]


def validate(recorded: Recorded) -> list[str]:
    """Whether it is what the reference says; the names of its events where it is a stream."""
    if recorded.status >= 400:
        assert_valid("ErrorResponse", json.loads(recorded.body))
        return []
    assert recorded.status == 200, recorded
    if recorded.content_type == "text/event-stream":
        return list(events_of(recorded.body.decode()))
    name = schema_of(recorded.method, recorded.path)
    if name is not None:
        assert recorded.content_type == "application/json"
        assert_valid(name, json.loads(recorded.body))
    return []


def events_of(text: str) -> Iterator[str]:
    """Of a whole stream, each event valid; it ends with `done`."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert blocks[-1].endswith("event: done\ndata: [DONE]"), blocks[-1]
    for block in blocks[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        event = {"event": fields["event"], "data": json.loads(fields["data"])}
        assert_valid("AssistantStreamEvent", event)
        yield fields["event"]


def pattern_of(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", path))


def not_asked(recorded: list[Recorded], url: str) -> set[tuple[str, str]]:
    """Those routes of OpenAI's that we have and that nobody asked with success."""
    paths: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()["paths"]
    routes = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path.startswith(FAMILIES) and not OUR_OWN.search(path)
    }
    assert len(routes) > 40
    asked = {(each.method, each.path) for each in recorded if each.status == 200}
    return {
        (method, path)
        for method, path in routes
        if not any(method == m and pattern_of(path).fullmatch(p) for m, p in asked)
    }


def run_script(proxy: RecordingProxy) -> list[str]:
    """What it prints."""
    told = {"OPENAI_BASE_URL": f"{proxy.url}/v1", "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT)],
        cwd=SCRIPT.parent,
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_script_has_nothing_of_ours() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    others = {name for name in imported if name not in sys.stdlib_module_names}
    assert others == {"openai", "typing_extensions"}  # which openai itself needs


@pytest.mark.timeout(MODEL_SECONDS + 400)
def test_it_runs_to_its_end_and_every_answer_is_valid(stack: LocalStack, tmp_path: Path) -> None:
    assert stack.is_ready()
    with local_stack(tmp_path / "data", EMBEDDINGS="on") as local:
        local.wait_ready(MODEL_SECONDS)
        with recording_proxy(local.url) as proxy:
            printed = run_script(proxy)
            assert printed[-1] == "done"
            assert len(printed) == 12
            seen = {event for each in proxy.recorded for event in validate(each)}
            missing = not_asked(proxy.recorded, local.url)
    assert len(proxy.recorded) > 150
    assert missing == set()
    wanted = ("thread.created", "run.requires_action", "run.completed", "message.completed")
    assert {name if name[:6] == "thread" else f"thread.{name}" for name in wanted} <= seen
