"""What configs/front says must fit the gateway, the compose file and OpenAI's envelope."""

import json
import re
from pathlib import Path

import pytest
import yaml

from api_server.settings.sections import TimeoutConfig
from tests.local_stack import REPOSITORY

FRONT = REPOSITORY / "configs" / "front"
CONFIG = (FRONT / "haproxy.cfg").read_text()
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
ERRORS = sorted((FRONT / "errors").glob("*.http"))
UNITS = {"": 0.001, "ms": 0.001, "s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([a-z]*)", text)
    assert found is not None, text
    return int(found[1]) * UNITS[found[2]]


def told(keyword: str) -> str:
    """The one value that stands behind a keyword."""
    [value] = re.findall(rf"^\s*{keyword}\s+(\S+)", CONFIG, re.MULTILINE)
    return str(value)


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_an_error_of_its_own_is_openais_envelope(path: Path) -> None:
    text = path.read_bytes().decode()
    head, _, body = text.partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    fields = dict(line.split(": ") for line in headers)
    error = json.loads(body)["error"]
    assert status.split()[1] == path.stem
    assert int(fields["content-length"]) == len(body.encode())
    assert fields["content-type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"}
    assert ("retry-after" in fields) == (status.split()[1] in ("502", "503", "504"))


def test_a_request_that_a_gateway_may_have_seen_is_not_sent_again() -> None:
    assert re.findall(r"^\s*retry-on (.+)$", CONFIG, re.MULTILINE) == ["conn-failure"]


def test_it_ends_when_the_last_answer_has_passed() -> None:
    assert COMPOSE["services"]["front"]["stop_signal"] == "SIGUSR1"


def test_each_error_file_is_used() -> None:
    used = dict(re.findall(r"errorfile (\d+) (\S+)", CONFIG))
    assert used == {path.stem: f"errors/{path.name}" for path in ERRORS}


def test_it_waits_longer_than_a_gateway_does() -> None:
    bounds = TimeoutConfig()
    longest = bounds.queue_seconds + bounds.total_seconds
    assert seconds(told("timeout client")) > longest
    assert seconds(told("timeout server")) > longest


def test_it_knows_of_a_gateways_end_before_its_port_is_closed() -> None:
    notice = COMPOSE["services"]["api-server"]["environment"]["DRAIN_NOTICE_SECONDS"]
    [(inter, fastinter, fall)] = re.findall(
        r"default-server check inter (\w+) fastinter (\w+) fall (\d)", CONFIG
    )
    known_after = seconds(inter) + (int(fall) - 1) * seconds(fastinter)
    assert known_after + 1 <= notice, "a second for a machine that has much to do"


def test_compose_lets_it_end_as_late_as_it_ends_itself() -> None:
    front, gateway = (COMPOSE["services"][name] for name in ("front", "api-server"))
    environment = gateway["environment"]
    drain = environment["DRAIN_SECONDS"] + environment["DRAIN_NOTICE_SECONDS"]
    assert front["stop_signal"] == "SIGUSR1"
    assert drain < seconds(told("hard-stop-after")) < seconds(front["stop_grace_period"])
    assert drain < seconds(gateway["stop_grace_period"])


def test_its_ports_are_those_of_the_compose_file() -> None:
    front = COMPOSE["services"]["front"]
    ports = re.findall(r"bind :(\d+)", CONFIG)
    assert [port.rsplit(":", 1)[1] for port in front["ports"]] == [ports[0]]
    assert f":{ports[1]}/health" in front["healthcheck"]["test"][-1]
    assert "monitor-uri /health\n" in CONFIG
