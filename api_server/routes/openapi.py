"""The gateway's own OpenAPI document, with the raw routes that FastAPI knows nothing of."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api_server.errors import is_conversation_path, is_job_path
from api_server.routes.uploads import Completion, NewUpload
from api_server.schemas.assistants import AssistantChange, NewAssistant
from api_server.schemas.completions import ChatRequest, CompletionRequest
from api_server.schemas.conversations import ProcessBody
from api_server.schemas.embeddings import EmbeddingsRequest
from api_server.schemas.jobs import AiBatch, AiRequest
from api_server.schemas.runs import RunBody, RunChange, ThreadAndRunBody, ToolOutputs
from api_server.schemas.threads import MessageBody, MessageChange, ThreadBody, ThreadChange
from api_server.schemas.vector_stores import (
    AttributesChange,
    NewFileBatch,
    NewStoreFile,
    NewVectorStore,
    SearchBody,
    VectorStoreChange,
)
from api_server.services.requests import Kind

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_ERROR = {"$ref": _REFERENCE.format(name="Error")}
_ERROR_SCHEMA: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_JOB_ERROR = {"$ref": _REFERENCE.format(name="JobError")}
_JOB_ERROR_SCHEMA: Json = {
    "type": "object",
    "required": ["status", "error_code", "message"],
    "properties": {
        "status": {"const": "error"},
        "error_code": {"type": "string"},
        "message": {"type": "string"},
    },
}
_GUIDE_ERROR = {"$ref": _REFERENCE.format(name="ConversationError")}
_GUIDE_ERROR_SCHEMA: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_RAW_ROUTES = (
    (Kind.CHAT, "Answer a chat, streamed or not", ChatRequest, "choices"),
    (Kind.TEXT, "Go on with a text, streamed or not", CompletionRequest, "choices"),
    (Kind.EMBEDDINGS, "Turn texts into vectors", EmbeddingsRequest, "data"),
)
_BODIES = (
    *(AiRequest, AiBatch, NewAssistant, AssistantChange),
    *(ThreadBody, ThreadChange, MessageBody, MessageChange),
    *(RunBody, ThreadAndRunBody, RunChange, ToolOutputs, ProcessBody),
    *(NewVectorStore, VectorStoreChange, NewStoreFile, NewFileBatch, AttributesChange, SearchBody),
    *(NewUpload, Completion),
)
"""Of routes that read their bodies themselves."""


def document(app: FastAPI) -> Json:
    """The whole document; answers are described as far as they are ours to describe.

    The answers' own shapes are OpenAI's: its reference holds them.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    requests = [*(request for _, _, request, _ in _RAW_ROUTES), *_BODIES]
    _, schemas = msgspec.json.schema_components(requests, ref_template=_REFERENCE)
    components = whole.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas)
    components["Error"] = _ERROR_SCHEMA
    components["JobError"] = _JOB_ERROR_SCHEMA
    components["ConversationError"] = _GUIDE_ERROR_SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for kind, summary, request, holds in _RAW_ROUTES:
        whole["paths"][kind.value] = {"post": _operation(summary, request, holds)}
    for path, operations in whole["paths"].items():
        error = _error_of(path)
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _json("An error", error)
    app.openapi_schema = whole
    return whole


def _error_of(path: str) -> Json:
    """As `errors.envelope_for` answers."""
    if is_conversation_path(path):
        return _GUIDE_ERROR
    return _JOB_ERROR if is_job_path(path) else _ERROR


def _operation(summary: str, request: type, holds: str) -> Json:
    answer = _json("The answer", {"type": "object", "required": [holds]})
    if holds == "choices":
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    body = _json("", {"$ref": _REFERENCE.format(name=request.__name__)})
    return {
        "tags": ["inference"],
        "summary": summary,
        "requestBody": {"required": True, "content": body["content"]},
        "responses": {"200": answer},
    }


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
