"""Write assistants, threads and files of an API of OpenAI's kind to a folder, to move in here.

pip install openai
OPENAI_API_KEY=sk-... python examples/export_assistants.py dump thread_abc thread_def ...
.venv/bin/python -m api_server import-assistants dump/dump.json --app "My App"

The API lists no threads: name those that you have. OPENAI_BASE_URL says where, else it is OpenAI.
"""

import asyncio
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import openai

warnings.simplefilter("ignore", DeprecationWarning)


async def main(folder: Path, thread_ids: list[str]) -> None:
    """Write `dump.json`, and the files' contents beside it."""
    client = openai.AsyncOpenAI()
    beta = client.beta
    dump: dict[str, list[Any]] = {"assistants": [], "threads": [], "files": []}
    dump["assistants"] = [each.to_dict() async for each in beta.assistants.list(limit=100)]
    for thread_id in thread_ids:
        thread = (await beta.threads.retrieve(thread_id)).to_dict()
        messages = beta.threads.messages.list(thread_id, order="asc", limit=100)
        thread["messages"] = [message.to_dict() async for message in messages]
        dump["threads"].append(thread)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    async for file in client.files.list():
        path = f"files/{file.id}"
        try:
            content = await client.files.content(file.id)
        except openai.BadRequestError as exc:  # OpenAI gives some purposes to nobody
            print(f"{file.id} ({file.filename}) cannot be downloaded: {exc}")
            continue
        (folder / path).write_bytes(content.content)
        dump["files"].append(file.to_dict() | {"path": path})
    (folder / "dump.json").write_text(json.dumps(dump))
    print({kind: len(objects) for kind, objects in dump.items()})


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
