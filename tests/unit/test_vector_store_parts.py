"""What is decided of vector stores without any store: citations, contents, wishes, sources."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from api_server.errors import InvalidRequestError
from api_server.schemas.assistants import FileSearchResources, ToolResources
from api_server.schemas.chunks import Chunk, Comparison, Compound, Hit
from api_server.schemas.vector_stores import NewFileBatch, SearchBody
from api_server.services.vector_stores.citing import (
    NOTHING,
    call_number,
    citations,
    details_of,
    output_of,
)
from api_server.services.vector_stores.file_search import LONGEST_QUESTION, question_of, stores_of
from api_server.services.vector_stores.objects import batch_status, content_of
from api_server.services.vector_stores.reading import files_of, filter_of
from api_server.services.vector_stores.searching import Source, best_of, sources_of
from api_server.stores.chunk_filters import of_chunks
from api_server.stores.vector_store_files import Batch
from tests.wire import assert_valid


def chunk(text: str, *, n: int = 0, start: int = 0, file: str = "file-1") -> Chunk:
    return Chunk("a", "vs", file, "g", n, text, start, start + len(text), f"{file}.txt")


def source(text: str, score: float = 0.5, file: str = "file-1", n: int = 0) -> Source:
    return Source(chunk(text, file=file, n=n), score, {})


def details(*texts: str) -> dict[str, Any]:
    sources = [source(text, file=f"file-{n}") for n, text in enumerate(texts)]
    return details_of(sources, "default_2024_08_21", 0.0)


def test_the_details_of_a_call_are_those_of_the_reference() -> None:
    call = {"id": "call_1", "type": "file_search", "file_search": details("one", "two")}
    assert_valid("RunStepDetailsToolCallsFileSearchObject", call)


def test_the_model_reads_each_passage_under_its_mark() -> None:
    told = details("one", "two")
    number = call_number(told["results"])
    output = output_of(told)
    assert f"【{number}:0†source】 file-0.txt\none" in output
    assert f"【{number}:1†source】 file-1.txt\ntwo" in output
    assert output_of(details()) == NOTHING


def test_marks_in_an_answer_are_citations_that_point_at_themselves() -> None:
    first, second = details("one", "two"), details("three")
    a, b = call_number(first["results"]), call_number(second["results"])
    text = f"Ä one 【{a}:1†source】, then【{b}:0†source】 and 【{a}:7†source】 or 【9:9†source】."
    # What was kept as JSON is the same.
    found = citations(text, [json.loads(json.dumps(each)) for each in (first, second)])
    assert [each["file_citation"]["file_id"] for each in found] == ["file-1", "file-0"]
    for each in found:
        assert_valid("MessageContentTextAnnotationsFileCitationObject", each)
        assert text[each["start_index"] : each["end_index"]] == each["text"]


@pytest.mark.parametrize(
    "text", ["", "【", "【12†source】", "【1:2】", "[1:0†source]", "【" * 10_000]
)
def test_what_is_no_mark_is_no_citation(text: str) -> None:
    assert citations(text, [details("one")]) == []


def test_the_text_of_a_file_repeats_nothing_of_chunks_that_overlap() -> None:
    text = "abcdefghij"
    pieces = [(0, 4), (2, 6), (6, 8), (7, 10)]
    chunks = [chunk(text[a:b], n=n, start=a) for n, (a, b) in enumerate(pieces)]
    assert "".join(part["text"] for part in content_of(chunks)) == text
    assert content_of([]) == []


def test_hits_of_stale_generations_are_no_sources() -> None:
    hits = [Hit("1", 1.2, chunk("one")), Hit("2", -0.5, chunk("two", file="file-2"))]
    current = {("vs", "file-2", "g"): '{"a": 1}'}
    (only,) = sources_of(hits, current)
    assert (only.chunk.text, only.score, only.attributes) == ("two", 0.0, {"a": 1})


def test_a_chunk_that_several_questions_find_counts_once() -> None:
    found = [source("a", 0.2), source("b", 0.9, n=1), source("a", 0.7)]
    best = best_of(found, 5)
    assert [(each.chunk.text, each.score) for each in best] == [("b", 0.9), ("a", 0.7)]
    assert len(best_of(found, 1)) == 1


def test_parts_of_a_chunk_that_was_too_long_are_found_each() -> None:
    parts = [Source(chunk(text, start=start), 0.5, {}) for text, start in (("one", 0), ("two", 3))]
    assert [each.chunk.text for each in best_of(parts, 5)] == ["one", "two"]


def test_the_threads_store_is_searched_before_the_assistants() -> None:
    def having(*ids: str) -> ToolResources:
        return ToolResources(file_search=FileSearchResources(vector_store_ids=list(ids)))

    assert stores_of(having("vs_t"), having("vs_a")) == ["vs_t", "vs_a"]
    assert stores_of(having("vs_a"), having("vs_a")) == ["vs_a"]
    assert stores_of(ToolResources(), ToolResources()) == []


@pytest.mark.parametrize(
    ("arguments", "question"),
    [('{"query": "how?"}', "how?"), ("how?", "how?"), ('{"queries": 1', '"queries": 1')],
)
def test_what_a_model_asks_is_understood(arguments: str, question: str) -> None:
    assert question_of(arguments) == question
    assert len(question_of("x" * 10_000)) == LONGEST_QUESTION


@pytest.mark.parametrize("arguments", ["", "{}", '{"query": " "}', '{"query": "a\\u0000b"}'])
def test_what_is_no_question_is_told_to_the_model(arguments: str) -> None:
    with pytest.raises(InvalidRequestError):
        question_of(arguments)


def test_no_filter_comes_without_the_app_and_the_stores() -> None:
    told = of_chunks("a", ["vs"], by_attributes=Comparison("eq", "k", "v"))
    keys = [each.get("key") for each in told["must"]]
    assert keys[:2] == ["app_id", "vector_store_id"]
    assert told["must"][0]["match"] == {"value": "a"}


def wish(filters: object) -> Any:
    body = msgspec.json.encode({"query": "x", "filters": filters})
    return filter_of(msgspec.json.decode(body, type=SearchBody).filters)


def test_filters_are_read_with_all_their_parts() -> None:
    one = {"type": "eq", "key": "a", "value": 1}
    found = wish({"type": "or", "filters": [one, {"type": "and", "filters": [one]}]})
    assert found == Compound("or", [Comparison("eq", "a", 1), Compound("and", [found.filters[0]])])
    deep: dict[str, Any] = one
    for _ in range(8):
        deep = {"type": "and", "filters": [deep]}
    with pytest.raises(InvalidRequestError, match="deeper"):
        wish(deep)
    with pytest.raises(InvalidRequestError, match="no key"):
        wish({"type": "and", "filters": [one], "key": "a"})
    with pytest.raises(InvalidRequestError, match="more than 64"):
        wish({"type": "or", "filters": [one] * 65})


def test_a_batch_names_its_files_in_one_way() -> None:
    with pytest.raises(InvalidRequestError, match="either file_ids or files"):
        files_of(NewFileBatch())
    with pytest.raises(InvalidRequestError, match="names no file"):
        files_of(NewFileBatch(file_ids=[]))
    found = files_of(NewFileBatch(file_ids=["a", "a", "b"], attributes={"x": 1}))
    assert [(each.file_id, each.attributes) for each in found] == [("a", {"x": 1}), ("b", {"x": 1})]


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ((1, 1, 1, 0), "in_progress"),
        ((0, 1, 1, 0), "completed"),
        ((0, 0, 2, 0), "failed"),
        ((0, 0, 0, 0), "completed"),
    ],
)
def test_how_a_batch_is(counts: tuple[int, int, int, int], status: str) -> None:
    at = datetime.now(UTC)
    assert batch_status(Batch("b", at, False, *counts)) == status  # noqa: FBT003
    assert batch_status(Batch("b", at, True, *counts)) == "cancelled"  # noqa: FBT003
