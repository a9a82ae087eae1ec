"""How far off an estimate is, beside counts that real tokenizers made of these very texts."""

import json
from typing import Any

import pytest

from api_server.inference.estimating import (
    MESSAGE_TOKENS,
    estimate_chat,
    estimate_prompt,
    estimate_tokens,
)

ENGLISH = (
    "hi, how are you? I am fine thanks! What's the capital of France? It is Paris. ok cool, tell "
    "me a joke about cats please. Why did the cat sit on the computer? To keep an eye on the mouse!"
)
CHINESE = (
    "人工智能正在改变我们的生活方式。大型语言模型可以理解和生成自然语言,用于翻译、总结和编写代码。然而,它们也会犯错误,"
    "因此使用者必须仔细检查结果。我们希望在自己的服务器上运行这些模型,以保护数据的隐私。"
)
HINDI = (
    "कृत्रिम बुद्धिमत्ता हमारे जीवन को बदल रही है। बड़े भाषा मॉडल प्राकृतिक भाषा को समझ और लिख सकते हैं, लेकिन "
    "वे गलतियाँ भी करते हैं, इसलिए परिणामों की जाँच करनी चाहिए।"
)
GERMAN = (
    "Künstliche Intelligenz verändert unser Leben. Große Sprachmodelle verstehen und erzeugen "
    "natürliche Sprache, übersetzen, fassen zusammen und schreiben Programme. Allerdings machen "
    "sie Fehler, weshalb man die Ergebnisse sorgfältig überprüfen muss."
)
HTML = '<div class="a"><span>Hello</span></div>\n' * 40
LOG = '{"ts":"2026-11-21T12:00:00.123Z","level":"info","request_id":"a8f3-11","status":200}\n' * 20


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (ENGLISH, 51),
        (CHINESE, 104),
        (HINDI, 179),
        (GERMAN, 79),
        (HTML, 600),
        (LOG, 1020),
        ("word " * 500, 501),
    ],
)
def test_estimates_are_near_what_mistral_7b_counts(text: str, counted: int) -> None:
    assert 0.85 * counted < estimate_tokens(text.encode()) < 1.5 * counted


def test_nothing_has_no_tokens() -> None:
    assert estimate_tokens(b"") == 0


def chat(*messages: dict[str, Any], **dump: Any) -> int:
    return estimate_chat(json.dumps(messages, **dump).encode())


def test_a_chat_is_its_texts_and_what_stands_around_them() -> None:
    said = {"role": "user", "content": ENGLISH}
    alone = estimate_tokens(ENGLISH.encode()) + MESSAGE_TOKENS
    assert chat(said) == alone
    assert chat(said, said) == 2 * alone
    assert chat({"role": "user", "content": [{"type": "text", "text": ENGLISH}]}) == alone
    assert chat({"role": "assistant", "content": None}) == MESSAGE_TOKENS


def test_escapes_of_json_count_as_what_they_stand_for() -> None:
    said = {"role": "user", "content": CHINESE}
    assert chat(said, ensure_ascii=True) == chat(said, ensure_ascii=False)


def test_calls_and_tools_count_and_pictures_do_not() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 12345}'}}
    assert chat({"role": "assistant", "tool_calls": [call]}) > MESSAGE_TOKENS + 20
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    assert chat({"role": "user", "content": [picture]}) == MESSAGE_TOKENS
    said = json.dumps([{"role": "user", "content": "x"}]).encode()
    assert estimate_chat(said, b'[{"type":"function"}]') > estimate_chat(said)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("word " * 10, (estimate_tokens(b"word " * 10), False)),
        (["a", "word " * 10], (estimate_tokens(b"word " * 10), False)),
        ([1, 2, 3], (3, True)),
        ([[1], [2, 3, 4, 5]], (4, True)),
        ("", (0, False)),
    ],
)
def test_the_longest_prompt_counts_and_token_ids_exactly(
    prompt: Any, expected: tuple[int, bool]
) -> None:
    assert estimate_prompt(json.dumps(prompt).encode()) == expected
