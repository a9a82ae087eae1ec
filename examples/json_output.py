"""Get an answer in the shape that your program needs: the engine can write nothing else.

make local                       # in one terminal
pip install openai               # in another
export OPENAI_API_KEY="$(cat .local/development.key)"
python examples/json_output.py
"""

import json
import os

from openai import OpenAI
from openai.types.shared_params import ResponseFormatJSONSchema

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
model = client.models.list().data[0].id
shape: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"country": {"type": "string"}, "capital": {"type": "string"}},
            "required": ["country", "capital"],
            "additionalProperties": False,
        },
    },
}

for country in ("France", "Spain", "Egypt"):
    answer = client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": f"What is the capital of {country}? "
                "Return JSON with country and capital.",
            }
        ],
        response_format=shape,
        max_tokens=100,
    )
    if answer.choices[0].finish_reason != "stop":
        print(f"{country}: the answer was cut short, so it is no JSON")
        continue
    place = json.loads(answer.choices[0].message.content or "")
    print(f"{place['country']}: {place['capital']}")
