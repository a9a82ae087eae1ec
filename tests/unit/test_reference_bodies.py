"""The bodies that we read against those of the reference: the same fields, no others."""

import json
from typing import Any

import msgspec
import pytest

from api_server.errors import InvalidRequestError
from api_server.routes.uploads import Completion, NewUpload
from api_server.schemas import assistants, chunks, runs, threads, vector_stores
from api_server.services.reading import read_json
from tests.wire import reference

BODIES = {
    "CreateAssistantRequest": assistants.NewAssistant,
    "ModifyAssistantRequest": assistants.AssistantChange,
    "CreateThreadRequest": threads.ThreadBody,
    "ModifyThreadRequest": threads.ThreadChange,
    "CreateMessageRequest": threads.MessageBody,
    "ModifyMessageRequest": threads.MessageChange,
    "CreateRunRequest": runs.RunBody,
    "CreateThreadAndRunRequest": runs.ThreadAndRunBody,
    "ModifyRunRequest": runs.RunChange,
    "SubmitToolOutputsRunRequest": runs.ToolOutputs,
    "CreateUploadRequest": NewUpload,
    "CompleteUploadRequest": Completion,
    "CreateVectorStoreRequest": vector_stores.NewVectorStore,
    "UpdateVectorStoreRequest": vector_stores.VectorStoreChange,
    "CreateVectorStoreFileRequest": vector_stores.NewStoreFile,
    "CreateVectorStoreFileBatchRequest": vector_stores.NewFileBatch,
    "UpdateVectorStoreFileAttributesRequest": vector_stores.AttributesChange,
    "VectorStoreSearchRequest": vector_stores.SearchBody,
    "AutoChunkingStrategyRequestParam": chunks.AutoChunking,
    "StaticChunkingStrategyRequestParam": chunks.StaticChunking,
    "StaticChunkingStrategy": chunks.StaticSizes,
    "AssistantToolsFunction": assistants.Function,
    "FunctionObject": assistants.FunctionShape,
    "AssistantToolsFileSearch": assistants.FileSearch,
    "FileSearchRankingOptions": assistants.RankingOptions,
    "TruncationObject": runs.Truncation,
}
OURS = {"CreateThreadAndRunRequest": {"reasoning_effort"}}
"""Beside the reference: what `CreateRunRequest` has."""


@pytest.mark.parametrize("name", BODIES)
def test_a_body_has_the_fields_of_the_reference(name: str) -> None:
    told: dict[str, Any] = reference(name)
    info = msgspec.inspect.type_info(BODIES[name])
    assert isinstance(info, msgspec.inspect.StructType)
    tag = {"type"} if info.tag is not None else set()
    fields = {field.encode_name for field in info.fields}
    assert fields | tag == set(told["properties"]) | OURS.get(name, set())
    required = {field.encode_name for field in info.fields if field.required}
    assert required | tag == set(told.get("required", ()))
    assert info.forbid_unknown_fields == (told.get("additionalProperties") is False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m", "instruction": "x"}, "instruction"),
        ({"model": "m", "file_ids": []}, "file_ids"),
        ({"model": "m", "a b'\"`$.c": 1}, "a b'\"`$.c"),
    ],
)
def test_a_field_that_is_none_is_named(body: Any, param: str) -> None:
    decoder = msgspec.json.Decoder(assistants.NewAssistant)
    with pytest.raises(InvalidRequestError, match="Unknown parameter") as refused:
        read_json(json.dumps(body).encode(), decoder)
    assert refused.value.param == param.replace("`", "'")
