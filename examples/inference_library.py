"""Ask every model of configs/stack.yaml without a web server: plain, streamed, up to a stop word.

"$(.venv/bin/python -m api_server engine)" -m models/tiny/tiny-q8_0.gguf --port 8080  # in one
.venv/bin/python -m examples.inference_library                        # in another terminal
"""

import asyncio
from functools import partial

from api_server.inference import InferenceRequest
from api_server.library import open_service

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


async def main() -> None:
    """Three ways to ask, for each model, whatever serves it."""
    async with open_service() as service:
        for model in (each for each in service.models.catalogue if each.serves == "text"):
            ask = partial(InferenceRequest, model_id=model.id, messages=QUESTION)
            answer = await service.infer(ask())
            print(f"{model.id}: {answer.generated_text} [{answer.finish_reason}]")
            async for chunk in service.stream(ask()):
                print(chunk, end="|", flush=True)
            cut = await service.infer(ask(stop_sequences=["France"]))
            print(f"\n{cut.generated_text}[{cut.finish_reason}]")


asyncio.run(main())
