"""Ask many questions at once; the engine answers several in one batch.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/batch.py
"""

import asyncio
import os
import time

from openai import AsyncOpenAI

COUNTRIES = ("France", "Italy", "Spain", "Germany", "Japan", "Egypt", "Portugal", "Greece")
AT_ONCE = 4


async def main() -> None:
    """Ask, a few at a time, and print each answer as it comes."""
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    model = (await client.models.list()).data[0].id
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(country: str) -> None:
        async with places:
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"What is the capital of {country}?"}],
                max_tokens=50,
            )
        print(f"{country}: {answer.choices[0].message.content}")

    started = time.perf_counter()
    await asyncio.gather(*(ask(country) for country in COUNTRIES))
    seconds = time.perf_counter() - started
    print(f"[{len(COUNTRIES)} answers in {seconds:.2f} s, {AT_ONCE} at a time]")


if __name__ == "__main__":
    asyncio.run(main())
