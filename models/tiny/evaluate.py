"""Asks a server what the model promises and what it never saw in training; prints a table.

Owns the questions' way to the server and the counting; exits with 1 when a promise is broken.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from models.tiny.corpus import Conversation, held_out

PROMISES: Final = Path(__file__).parent / "promises.yaml"
HELD_SEED: Final = 11
HELD_PER_KIND: Final = 40
MAX_TOKENS: Final = 200
START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server; base_url ends with /v1."""

    base_url: str
    model: str = "tiny"
    api_key: str = "none"

    def answer(self, messages: list[dict[str, Any]], tools: list[Any]) -> dict[str, Any]:
        """The assistant's message at temperature 0. Raises OSError when the server refuses."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        if tools:
            body["tools"] = tools
        request = urllib.request.Request(
            f"{self.base_url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self.api_key}",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            message: dict[str, Any] = json.load(response)["choices"][0]["message"]
        return message


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and arguments of every tool call in a message."""
    calls = []
    for call in message.get("tool_calls") or []:
        arguments = call["function"]["arguments"]
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
        calls.append((call["function"]["name"], parsed))
    return calls


def is_same(said: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two assistant messages have the same text, or the same calls."""
    if calls_of(wanted):
        return calls_of(said) == calls_of(wanted)
    return not calls_of(said) and (said.get("content") or "").strip() == wanted["content"]


def keeps(said: dict[str, Any], case: dict[str, Any]) -> bool:
    """Whether an answer is what a case of promises.yaml asks for."""
    if "tool_call" in case:
        wanted = case["tool_call"]
        return calls_of(said) == [(wanted["name"], wanted["arguments"])]
    text = (said.get("content") or "").lower()
    contains = case["contains"]
    needed = [contains] if isinstance(contains, str) else contains
    return not calls_of(said) and all(each.lower() in text for each in needed)


def sendable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with tool calls' arguments as JSON text, as OpenAI's API has them."""
    sent: list[dict[str, Any]] = json.loads(json.dumps(messages))
    for message in sent:
        for call in message.get("tool_calls") or []:
            if not isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent


def promised() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every case of promises.yaml with the name of its class."""
    classes = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))["classes"]
    for name, described in classes.items():
        for case in described["cases"]:
            yield name, case


def _print_table(title: str, counts: dict[str, tuple[int, int]]) -> None:
    print(f"\n{title}")
    print(f"| {'class':16} | right | asked |      % |")
    print(f"|{'-' * 18}|{'-' * 6}:|{'-' * 6}:|{'-' * 7}:|")
    for name, (right, asked) in counts.items():
        print(f"| {name:16} | {right:5} | {asked:5} | {100 * right / asked:6.1f} |")


def check_promises(server: Server) -> int:
    """How many promises were broken."""
    counts: dict[str, tuple[int, int]] = {}
    for name, case in promised():
        said = server.answer(sendable(case["messages"]), case.get("tools", []))
        is_kept = keeps(said, case)
        right, asked = counts.get(name, (0, 0))
        counts[name] = (right + is_kept, asked + 1)
        if not is_kept:
            print(f"BROKEN {name}: {case['messages'][-1]['content']!r} -> {_shown(said)}")
    _print_table("Promises", counts)
    return sum(asked - right for right, asked in counts.values())


def check_held_out(server: Server, per_kind: int, *, is_verbose: bool) -> None:
    """Exact answers to conversations that the training never saw."""
    counts: dict[str, tuple[int, int]] = {}
    for each in held_out(HELD_SEED, per_kind):
        said = server.answer(sendable(each.messages[:-1]), each.tools)
        is_right = is_same(said, each.messages[-1])
        right, asked = counts.get(each.kind, (0, 0))
        counts[each.kind] = (right + is_right, asked + 1)
        if is_verbose and not is_right:
            _explain(each, said)
    _print_table("Held-out split (the whole answer must be the same)", counts)


def _explain(asked: Conversation, said: dict[str, Any]) -> None:
    print(f"WRONG {asked.kind}: {asked.messages[-2]['content']!r} -> {_shown(said)}")
    print(f"  wanted {_shown(asked.messages[-1])}")


def _shown(message: dict[str, Any]) -> str:
    return repr(calls_of(message) or message.get("content"))


def evaluate(server: Server, per_kind: int, *, is_verbose: bool) -> int:
    """Print both tables; 1 when a promise is broken, else 0."""
    check_held_out(server, per_kind, is_verbose=is_verbose)
    broken = check_promises(server)
    print(f"\n{broken} promises broken" if broken else "\nall promises kept")
    return 1 if broken else 0


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"llama-server was not ready within {START_SECONDS:.0f} seconds")


def with_server(
    path: Path, llama_server: str, per_kind: int = HELD_PER_KIND, *, is_verbose: bool = False
) -> int:
    """Start llama-server with the file on a free port, evaluate, stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [llama_server, "-m", str(path), "--alias", "tiny", "--host", "127.0.0.1"]
    command += ["--port", str(port), "-np", "1", "-c", "2048", "--jinja", "-t", "1", "--no-webui"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        server = Server(f"http://127.0.0.1:{port}/v1")
        return evaluate(server, per_kind, is_verbose=is_verbose)
    finally:
        process.terminate()
        process.wait(timeout=20)


def main() -> None:
    """Command line: a running server, or a file and a llama-server to start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", help="for instance http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--gguf", type=Path, help="start llama-server with this file")
    parser.add_argument("--llama-server", help="path of llama-server")
    parser.add_argument("--per-kind", type=int, default=HELD_PER_KIND)
    parser.add_argument("--verbose", action="store_true", help="print each wrong answer")
    args = parser.parse_args()
    if args.gguf and args.llama_server:
        sys.exit(with_server(args.gguf, args.llama_server, args.per_kind, is_verbose=args.verbose))
    if not args.base_url:
        parser.error("name --base-url, or --gguf together with --llama-server")
    server = Server(args.base_url, args.model, args.api_key)
    sys.exit(evaluate(server, args.per_kind, is_verbose=args.verbose))


if __name__ == "__main__":
    main()
