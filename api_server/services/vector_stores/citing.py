"""Sources for a model, numbered, and where its answer cites them. Pure.

A mark is 【K:N†source】: N is the source's number in one call of the tool, K tells calls of a run
apart. It is made of what the call found, so that whoever has the details of a call knows its marks.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from api_server.services.vector_stores.searching import Source

Json = dict[str, Any]

MARK = re.compile(r"【(\d{1,6}):(\d{1,4})†[^【】]{0,256}】")
NOTHING = "No passage of the files fits this question."


def details_of(sources: Sequence[Source], ranker: str, score_threshold: float) -> Json:
    """What the step shows of a call, as the reference has it."""
    return {
        "ranking_options": {"ranker": ranker, "score_threshold": score_threshold},
        "results": [
            {
                "file_id": source.chunk.file_id,
                "file_name": source.chunk.filename,
                "score": source.score,
                "content": [{"type": "text", "text": source.chunk.text}],
            }
            for source in sources
        ],
    }


def output_of(details: Mapping[str, Any]) -> str:
    """What the model reads."""
    results = details["results"]
    if not results:
        return NOTHING
    call = call_number(results)
    parts = [
        f"【{call}:{number}†source】 {result['file_name']}\n{_text(result)}"
        for number, result in enumerate(results)
    ]
    rule = (
        "Passages of the files, each under its mark. Where your answer rests on a passage, put its "
        f"mark behind the sentence, exactly as it stands here, such as 【{call}:0†source】."
    )
    return "\n\n".join([rule, *parts])


def citations(text: str, details: Sequence[Mapping[str, Any]]) -> list[Json]:
    """`file_citation` annotations for the marks in a text; places are characters."""
    files: dict[tuple[int, int], str] = {}
    for each in details:
        results = each.get("results") or []
        call = call_number(results)
        for number, result in enumerate(results):
            files.setdefault((call, number), result["file_id"])
    found = []
    for match in MARK.finditer(text):
        file_id = files.get((int(match[1]), int(match[2])))
        if file_id is not None:
            found.append(
                {
                    "type": "file_citation",
                    "text": match[0],
                    "start_index": match.start(),
                    "end_index": match.end(),
                    "file_citation": {"file_id": file_id},
                }
            )
    return found


def call_number(results: Sequence[Mapping[str, Any]]) -> int:
    """Four digits that are most likely those of this call alone."""
    told = "\0".join(f"{each['file_id']}\0{_text(each)}" for each in results)
    return 1000 + zlib.crc32(told.encode("utf-8", "surrogatepass")) % 9000


def _text(result: Mapping[str, Any]) -> str:
    return "\n".join(part["text"] for part in result.get("content") or [])
