"""What an entry of the catalogue refuses, for those who write one without a stack file."""

import pytest

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER

GOOD = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://user:hush@127.0.0.1:9", "api_key"),
        ("http://hush@127.0.0.1:9", "api_key"),
        ("http://hush..b:1", "no name"),
        (f"http://{'hush' * 16}:1", "no name"),
        ("hush", "base URL"),
        ("http://hush:99999", "base URL"),
        ("http://hush/v1", "without /v1"),
    ],
)
def test_a_replica_that_cannot_be_reached_as_it_is_written(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^models\.m\.replicas\[1\]: .*{told}") as caught:
        Model("m", LLAMA_SERVER, (GOOD, url))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["hush\r\nx: y", "hush\n", "hu\u0394sh", "hu sh", "hush\x7f"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.m\.api_key: must be .*ASCII") as caught:
        Model("m", LLAMA_SERVER, (GOOD,), api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://a.example/x/", "http://[::1]:2", "http://gpu_1", "HTTP://A"]
)
def test_what_can_be_reached(url: str) -> None:
    assert Model("m", LLAMA_SERVER, (url,), api_key="sk-!~").replicas == (url,)
