"""Talk to the model in the terminal; it remembers the conversation. Ctrl-D ends it.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/chat.py
"""

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
model = client.models.list().data[0].id
conversation: list[ChatCompletionMessageParam] = []

print(f"Talking to {model}. Ctrl-D ends it.")
while True:
    try:
        question = input("you> ")
    except EOFError:
        break
    conversation.append({"role": "user", "content": question})
    answer = ""
    print(f"{model}> ", end="", flush=True)
    for chunk in client.chat.completions.create(model=model, messages=conversation, stream=True):
        piece = chunk.choices[0].delta.content or ""
        answer += piece
        print(piece, end="", flush=True)
    print()
    conversation.append({"role": "assistant", "content": answer})
