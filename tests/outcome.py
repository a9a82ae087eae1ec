"""What the official client saw of one request."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import openai

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Outcome:
    """`status` and `code` are those of the error, if there was one; `code` alone: in the stream.

    `pieces` of text came, `has_begun` tells whether there was an answer at all.
    """

    request_id: str
    status: int
    code: str | None
    pieces: int
    has_begun: bool
    is_complete: bool
    retry_after: str | None
    seconds: float


async def ask(client: openai.AsyncOpenAI, model: str, *, stream: bool, **fields: Any) -> Outcome:
    """Ask once, with a prompt that no other request has. Raises nothing of the client's."""
    number = next(_numbers)
    request_id = f"{model}-{number}"
    started = time.monotonic()
    status, code, retry_after = 200, None, None
    pieces, has_begun, finish_reason = 0, False, None
    create: Any = client.chat.completions.create
    try:
        answer = await create(
            model=model,
            messages=[{"role": "user", "content": f"question {number}"}],
            stream=stream,
            extra_body=fields,
            extra_headers={"x-request-id": request_id},
        )
        has_begun = True
        if stream:
            async with answer:
                async for chunk in answer:
                    for choice in chunk.choices:
                        pieces += bool(choice.delta.content)
                        finish_reason = choice.finish_reason
        else:
            pieces = len(answer.choices[0].message.content)
            finish_reason = answer.choices[0].finish_reason
    except openai.APIStatusError as exc:
        status, code = exc.status_code, exc.code
        retry_after = exc.response.headers.get("retry-after")
    except openai.APIError as exc:
        code = exc.code or type(exc).__name__
    return Outcome(
        request_id,
        status,
        code,
        pieces,
        has_begun,
        finish_reason == "stop" and code is None,
        retry_after,
        time.monotonic() - started,
    )
