"""What `make local` says when it is ready: where, which models, what to type. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Ready:
    """What there is to tell. `key` is None where nobody is asked for one."""

    url: str
    model_id: str
    embedding_ids: Sequence[str]
    elsewhere_ids: Sequence[str]
    logs: Path
    key: str | None = field(default=None, repr=False)
    prometheus: str | None = None


def banner(ready: Ready) -> str:
    """Some lines for a person, with commands that work when they are copied."""
    url, model_id = ready.url, ready.model_id
    content = "-H 'content-type: application/json'"
    if ready.key is not None:
        content += f" \\\n    -H 'authorization: Bearer {ready.key}'"
    also = "".join(f" and embeddings of '{id_}'" for id_ in ready.embedding_ids)
    also += "".join(f" and, from elsewhere, '{id_}'" for id_ in ready.elsewhere_ids)
    embeddings = "".join(
        f"""
  curl {url}/v1/embeddings {content} \\
    -d '{{"model": "{id_}", "input": "Hello!"}}'
"""
        for id_ in ready.embedding_ids
    )
    watched = f"\n  metrics:  {ready.prometheus} (Prometheus)" if ready.prometheus else ""
    variables = f"OPENAI_BASE_URL={url}/v1"
    variables += f" OPENAI_API_KEY={ready.key}" if ready.key is not None else ""
    return f"""
Ready: {url}/v1 serves the model '{model_id}'{also}. Ctrl-C stops it.

  curl {url}/v1/chat/completions {content} \\
    -d '{{"model": "{model_id}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
{embeddings}
  examples: pip install openai; {variables} python examples/chat.py
  key:      {ready.key or "none is asked for (AUTH=off)"}
  logs:     {ready.logs}/{watched}"""


def open_to_all_warning(host: str) -> str:
    """For an address that others reach, without authentication."""
    return (
        f"Warning: AUTH is off, and HOST {host} lets everyone who reaches this port use the model."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    return host == "localhost" or host.startswith("127.") or host == "::1"
