"""The tiny model's corpus: seeded, split, and rendered with the assistant's turns marked."""

from itertools import islice

from models.tiny import corpus, words


def test_same_seed_gives_same_conversations() -> None:
    first = list(islice(corpus.conversations(3), 50))
    assert first == list(islice(corpus.conversations(3), 50))


def test_held_out_has_each_kind_equally_often() -> None:
    kinds = [each.kind for each in corpus.held_out(1, 2)]
    assert kinds == [kind for kind in corpus.KINDS for _ in range(2)]


def test_training_never_says_a_held_out_name() -> None:
    for each in islice(corpus.conversations(5), 500):
        said = " ".join(str(message["content"]) for message in each.messages)
        assert not any(f"My name is {name}." in said for name in words.HELD_NAMES)


def test_only_the_assistant_is_trained_to_speak() -> None:
    conversation = corpus.Conversation(
        "small_talk",
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    )
    asked, said = corpus.segments(conversation)
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    question = "<|begin_of_text|>" + header.format("user") + "Hi<|eot_id|>"
    assert asked == (question + header.format("assistant"), False)
    assert said == ("Hello!<|eot_id|>", True)
