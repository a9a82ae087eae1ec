"""A model that cannot answer leaves the request to its fallbacks, before the first text only."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import pytest

from api_server.errors import (
    ApiError,
    ConfigurationError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    QueueTimeoutError,
    ResourceNotAvailableError,
    StackError,
)
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.service import LLMInferenceService
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from tests.fake_handler import FakeHandler, fake_model
from tests.samples import samples

AWAY = ResourceNotAvailableError("away")


@dataclass(eq=False)
class Failing(FakeHandler):
    """Models fail as `faults` say, after `first` if that is not empty; the others give their id."""

    faults: Mapping[str, StackError] = field(default_factory=dict)
    first: str = ""
    patience: list[float] = field(default_factory=list)

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        self.requests.append(request)
        self.patience.append(loaded_model.config.timeouts.queue_seconds)
        if self.first:
            yield self.first
        if loaded_model.model_id in self.faults:
            raise self.faults[loaded_model.model_id]
        yield loaded_model.model_id


def service_of(
    faults: Mapping[str, StackError], *, first: str = "", metrics: Metrics | None = None
) -> tuple[LLMInferenceService, Failing]:
    handler = Failing(faults=faults, first=first)
    models = [fake_model("a", fallbacks=("b", "c")), fake_model("b"), fake_model("c")]
    return LLMInferenceService(LLMModelManager(models, [handler]), metrics=metrics), handler


REQUEST = InferenceRequest(model_id="a", prompt="p")


@pytest.mark.parametrize("fault", [AWAY, InferenceError("it broke"), EngineTimeoutError("slow")])
async def test_another_model_answers_and_the_response_says_so(fault: ApiError) -> None:
    service, handler = service_of({"a": fault})
    response = await service.infer(REQUEST)
    assert (response.generated_text, response.model_id) == ("b", "b")
    assert [request.model_id for request in handler.requests] == ["a", "b"]
    *text, summary = [piece async for piece in service.pieces(REQUEST)]
    assert text == ["b"]
    assert isinstance(summary, InferenceResponse)
    assert summary.model_id == "b"


async def test_in_their_order_and_a_fallback_that_cannot_do_it_is_passed_over() -> None:
    service, handler = service_of({"a": AWAY, "b": InvalidRequestError("no images")})
    assert (await service.infer(REQUEST)).generated_text == "c"
    assert [request.model_id for request in handler.requests] == ["a", "b", "c"]


async def test_only_the_last_waits_for_its_engines() -> None:
    service, handler = service_of({"a": AWAY, "b": AWAY})
    await service.infer(REQUEST)
    assert handler.patience == [0.0, 0.0, 10.0]


async def test_where_all_fail_the_first_error_is_told() -> None:
    service, _ = service_of({"a": AWAY, "b": InferenceError("b"), "c": InferenceError("c")})
    with pytest.raises(ResourceNotAvailableError, match="away"):
        await service.infer(REQUEST)
    with pytest.raises(ResourceNotAvailableError, match="away"):
        _ = [chunk async for chunk in service.stream(REQUEST)]


@pytest.mark.parametrize(
    "fault",
    [
        InvalidRequestError("bad"),
        ContextLengthError(9, 8),
        QueueTimeoutError("a queue"),
        OverloadedError("too much"),
    ],
)
async def test_not_for_the_callers_own_faults_nor_for_overload(fault: ApiError) -> None:
    service, handler = service_of({"a": fault})
    with pytest.raises(type(fault)):
        await service.infer(REQUEST)
    assert len(handler.requests) == 1


async def test_not_after_the_first_text() -> None:
    service, handler = service_of({"a": AWAY}, first="beginning ")
    stream = service.stream(REQUEST)
    assert await anext(stream) == "beginning "
    with pytest.raises(ResourceNotAvailableError):
        await anext(stream)
    assert len(handler.requests) == 1


async def test_a_model_that_cannot_be_loaded_has_fallbacks_too() -> None:
    service, handler = service_of({})
    handler.load_fault = AWAY
    with pytest.raises(ResourceNotAvailableError):
        await service.infer(REQUEST)
    assert handler.diary == ["load a", "load b", "load c"]


@pytest.mark.parametrize("others", [("gone",), ("gone", "b")])
async def test_a_fallback_that_nobody_knows_is_passed_over(
    others: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    handler = Failing(faults={"a": AWAY})
    models = [fake_model("a", fallbacks=others), fake_model("b")]
    service = LLMInferenceService(LLMModelManager(models, [handler]))
    assert "fallbacks that do not exist" in caplog.text
    if others == ("gone",):
        with pytest.raises(ResourceNotAvailableError, match="away"):
            await service.infer(REQUEST)
        assert handler.patience == [10.0], "nobody else can answer, so that it is worth waiting"
    else:
        assert (await service.infer(REQUEST)).model_id == "b"
        assert [chunk async for chunk in service.stream(REQUEST)] == ["b"]


async def test_a_parameter_that_a_fallback_lacks_is_no_reason_to_end() -> None:
    lacks = ConfigurationError("top_k is 3, and b has no such parameter")
    service, _ = service_of({"a": AWAY, "b": lacks})
    assert (await service.infer(REQUEST)).model_id == "c"
    assert [chunk async for chunk in service.stream(REQUEST)] == ["c"]
    service, _ = service_of({"a": AWAY, "b": lacks, "c": lacks})
    with pytest.raises(ResourceNotAvailableError, match="away"):
        await service.infer(REQUEST)
    service, handler = service_of({"a": lacks})
    with pytest.raises(ConfigurationError):
        await service.infer(REQUEST)
    assert len(handler.requests) == 1


async def test_it_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    metrics = Metrics(["a", "b", "c"], Numbers())
    service, _ = service_of({"a": AWAY}, metrics=metrics)
    await service.infer(REQUEST)
    fields = vars(next(record for record in caplog.records if record.message == "inference"))
    assert (fields["model"], fields["fallback_for"]) == ("b", "a")
    got = samples(metrics.render())
    assert got["llm_gateway_fallbacks_total", "b", "a", "engine_unavailable"] == 1
