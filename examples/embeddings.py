"""Search by meaning: find the sentences that are nearest to a question.

make local EMBEDDINGS=on         # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/embeddings.py
"""

import math
import os

from openai import OpenAI

MODEL = os.environ.get("EMBEDDING_MODEL_ID", "all-minilm-l6-v2")
SENTENCES = [
    "The bakery on the corner sells fresh bread from six in the morning.",
    "Trains to the airport leave every twenty minutes.",
    "The museum is closed on Mondays.",
    "You can borrow up to ten books from the library at a time.",
    "The swimming pool is heated in winter.",
]
QUESTIONS = ["Where can I buy something to eat?", "How do I get to my flight?", "I like to read."]

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def embed(texts: list[str]) -> list[list[float]]:
    """One vector for each text, all in one request."""
    answer = client.embeddings.create(model=MODEL, input=texts)
    return [entry.embedding for entry in answer.data]


def cosine(one: list[float], other: list[float]) -> float:
    """1 for the same direction, about 0 for unrelated texts."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


vectors = embed(SENTENCES)
for question, wanted in zip(QUESTIONS, embed(QUESTIONS), strict=True):
    found = max(range(len(SENTENCES)), key=lambda index: cosine(vectors[index], wanted))
    print(f"{question}\n  {cosine(vectors[found], wanted):.2f}  {SENTENCES[found]}")
