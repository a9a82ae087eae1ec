"""A handler of one's own: here a model made of one rule, served like any other.

.venv/bin/python -m examples.custom_handler

For the gateway, an entry in the models of configs/stack.yaml (the folder must be importable):

  - id: shout
    engine: custom
    handler: examples.custom_handler:ShoutHandler
    options: {ending: "!!"}
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from api_server import inference as library


@dataclass
class Loudness:
    """What is loaded: weights, in a real handler."""

    ending: str


class ShoutHandler(library.InferenceHandler):
    """Says what it is told, louder."""

    def can_handle(self, loaded_model: library.LoadedModel) -> bool:
        return isinstance(loaded_model.model_object, Loudness)

    async def load(self, model: library.Model) -> Loudness:
        return Loudness(str(model.options.get("ending", "!")))

    async def stream_infer(
        self, loaded_model: library.LoadedModel, request: library.InferenceRequest
    ) -> AsyncGenerator[str | library.InferenceResponse, None]:
        said = request.prompt or str((request.messages or [{}])[-1].get("content"))
        heard = said.upper().split()
        words = [
            *(f"{word} " for word in heard[:-1]),
            *heard[-1:],
            loaded_model.model_object.ending,
        ]
        answer = words[: request.params.max_new_tokens]
        for word in answer:
            await asyncio.sleep(0.001)  # a real one waits for its model here, and may be cancelled
            yield word
        yield library.InferenceResponse(
            request_id=request.request_id,
            model_id=request.model_id,
            finish_reason="stop" if len(answer) == len(words) else "length",
            prompt_tokens=len(heard),
            generated_tokens=len(answer),
        )


async def main() -> None:
    """Ask it through the library, as the entry above would have the gateway ask it."""
    entry = library.Model(
        "shout", library.ENGINES["custom"], handler="examples.custom_handler:ShoutHandler"
    )
    async with library.LLMModelManager([entry]) as manager:
        service = library.LLMInferenceService(manager)
        request = library.InferenceRequest(model_id="shout", prompt="it works like the others")
        async for piece in service.stream(request):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main())
