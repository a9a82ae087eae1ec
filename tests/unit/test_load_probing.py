"""What the load tests find out of a gateway before a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from load_tests.probing import MANY_TOKENS, Known, Probe, ProbeError

CONTEXT = 1000
PER_WORD = 2


def chat(asked: dict[str, Any], *, takes_ignore_eos: bool) -> tuple[int, dict[str, Any]]:
    """An engine with two tokens a word, which says no more than it is asked for."""
    if "ignore_eos" in asked and not takes_ignore_eos:
        return 400, {"error": {"code": "unknown_parameter"}}
    if asked["model"] != "chatty":
        return 400, {"error": {"code": "unsupported"}}
    tokens = PER_WORD * len(asked["messages"][0]["content"].split())
    if tokens > CONTEXT:
        return 400, {"error": {"message": f"its context holds {CONTEXT} tokens"}}
    return 200, {
        "choices": [{"finish_reason": "length"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": asked["max_tokens"]},
        "system_fingerprint": "b1",
    }


@contextmanager
def gateway(*, takes_ignore_eos: bool = True, jobs: object = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def say(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            served = [{"id": "vectors"}, {"id": "chatty"}]
            health = {"version": "1.2", "jobs": jobs}
            self.say(200, {"data": served} if self.path == "/v1/models" else health)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/embeddings":
                self.say(200 if asked["model"] == "vectors" else 400, {})
            else:
                self.say(*chat(asked, takes_ignore_eos=takes_ignore_eos))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def found(*wanted: str, **more: Any) -> Known:
    with gateway(**more) as url:
        return Probe(url, None, 5).ask(wanted)


def test_what_a_gateway_can_do_is_found_out() -> None:
    known = found("short", "long", "embeddings", "jobs")
    assert (known.model, known.embedding_model) == ("chatty", "vectors")
    assert (known.tokens_per_word, known.context_tokens) == (PER_WORD, CONTEXT)
    assert (known.gateway_version, known.engine_version) == ("1.2", "b1")
    assert set(known.left_out) == {"jobs"}
    assert found("jobs", jobs={"queued": 0}).left_out == {}


def test_the_context_is_asked_for_only_where_a_scenario_may_reach_it() -> None:
    assert found("short").context_tokens == MANY_TOKENS


def test_an_engine_that_refuses_ignore_eos_is_not_sent_it() -> None:
    """Two tokens of two are cut off there too, and every request of the run would be refused."""
    assert found("short").takes_ignore_eos
    assert not found("short", takes_ignore_eos=False).takes_ignore_eos


def test_a_model_that_does_not_chat_is_told() -> None:
    with gateway() as url, pytest.raises(ProbeError, match="vectors: 400 unsupported"):
        Probe(url, None, 5).ask(["short"], "vectors")
