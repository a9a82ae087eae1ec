"""The command line of the load tests: which run its options ask for, and with which key."""

import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.__main__ import configured, main, parser, watching
from load_tests.configuration import Configuration
from load_tests.key import key_of
from load_tests.probing import Known
from load_tests.scenarios import SCENARIOS

KNOWN = Known(model="tiny", tokens_per_word=2.0, context_tokens=1024, takes_ignore_eos=True)
LOCAL = "http://127.0.0.1:8000"


def _configured(*words: str, known: Known = KNOWN) -> Configuration:
    return configured(parser().parse_args(words), known, "000001")


def test_requests_and_concurrency_are_a_closed_loop() -> None:
    found = _configured("--requests", "100", "--concurrency", "10")
    assert (found.requests, found.concurrency, found.rate, found.seconds) == (100, 10, None, None)
    assert found.scenarios == {"short": 1.0, "medium": 1.0}
    assert (found.model, found.tokens_per_word, found.context_tokens) == ("tiny", 2.0, 1024)
    assert (found.salt, found.host) == ("000001", LOCAL)


def test_a_rate_is_an_open_loop() -> None:
    found = _configured("--rate", "25", "--duration", "60", "--salt", "7")
    assert (found.rate, found.seconds, found.concurrency, found.salt) == (25, 60, None, "7")
    assert found.is_open


def test_what_is_left_out_follows_from_the_rest() -> None:
    assert _configured().seconds == 60
    assert _configured("--scenario", "all", "--requests", "500").concurrency == 10
    assert _configured("--shape", "soak", "--rate", "5").seconds == 3600
    assert _configured("--shape", "ramp", "--rate", "5", "--requests", "9").seconds == 60


def test_all_is_what_the_gateway_can_do_and_a_name_is_a_name() -> None:
    known = Known(model="tiny", left_out={"jobs": "no PostgreSQL"})
    found = _configured("--scenario", "all", known=known)
    assert found.scenarios.keys() == SCENARIOS.keys() - {"jobs"}
    with pytest.raises(ValueError, match="jobs: no PostgreSQL"):
        _configured("--scenario", "jobs", known=known)
    with pytest.raises(ValueError, match="either a rate"):
        _configured("--rate", "1", "--concurrency", "1")


@pytest.mark.parametrize("verb", ["--slo", "--find-capacity"])
@pytest.mark.parametrize("rate", ["0", "-1"])
def test_a_promise_is_measured_at_a_rate_above_0(
    verb: str, rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--rate", rate])
    assert ended.value.code == 2
    assert f"'{rate}' is no number above 0" in capsys.readouterr().err


def test_the_key_of_make_local_goes_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "development.key").write_text("sk-dev-1\n")
    environment = {"DATA_DIR": str(tmp_path)}
    assert key_of(environment, LOCAL) == "sk-dev-1"
    assert key_of(environment, "http://localhost:8000") == "sk-dev-1"
    assert key_of(environment, "https://api.example.com") is None
    assert key_of(environment | {"OPENAI_API_KEY": "sk-2"}, "https://api.example.com") == "sk-2"
    assert key_of({"DATA_DIR": str(tmp_path / "none")}, LOCAL) is None
    assert key_of(environment, "http://[::1") is None


def test_progress_is_one_line_on_a_terminal_and_rare_elsewhere() -> None:
    written: list[str] = []
    watch = watching(_configured(), written.append, is_tty=True)
    watch(1.0, [{}])
    watch(1.5, [{}])
    assert [text.startswith("\r") and "\n" not in text for text in written] == [True, True]
    written.clear()
    watch = watching(_configured(), written.append, is_tty=False)
    for second in range(25):
        watch(float(second), [{}])
    assert len(written) == 3
    assert all(text.endswith("\n") for text in written)


def test_neither_the_command_nor_its_figures_import_locust() -> None:
    code = (
        "import sys, load_tests.__main__, gevent.monkey\n"
        "sys.exit('locust' in sys.modules or bool(gevent.monkey.saved))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
