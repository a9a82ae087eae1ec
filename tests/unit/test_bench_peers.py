"""Peers: what is pinned, what is refused, and that a missing one is a row that says so."""

from pathlib import Path

import pytest
import yaml

from benchmarks import peers
from benchmarks.bench import QUICK, run_rounds
from benchmarks.peer_packages import LOCKS, Package, check_pins, package, pins
from benchmarks.processes import TargetError
from benchmarks.targets import Place


@pytest.mark.parametrize("bad", ["1.82.7", "1.82.8"])
def test_releases_that_stole_credentials_are_refused(bad: str, tmp_path: Path) -> None:
    (tmp_path / "litellm.in").write_text("litellm[proxy]==1.106.2\n")
    (tmp_path / "litellm.txt").write_text(f"litellm=={bad} \\\n    --hash=sha256:00\n")
    with pytest.raises(TargetError, match="stole credentials"):
        package("litellm", tmp_path)
    with pytest.raises(TargetError, match="stole credentials"):
        check_pins(f"LiteLLM[proxy]=={bad}")


@pytest.mark.parametrize("name", peers.PACKAGES)
def test_every_peer_is_pinned_with_hashes(name: str) -> None:
    pinned = package(name)
    assert pins(pinned.lock)[name] == pinned.version
    requirements = [line for line in pinned.lock.splitlines() if line and not line.startswith(" ")]
    assert all("==" in line and line.endswith("\\") for line in requirements)
    assert pinned.lock.count("--hash=sha256:") >= len(requirements)
    assert (LOCKS / f"{name}.in").exists()


async def test_a_peer_that_cannot_be_installed_gets_a_row_that_says_so(tmp_path: Path) -> None:
    async def fail(peer: Package, _cache: Path) -> Path:
        raise TargetError(f"no {peer.name} today")

    def say(_line: str) -> None:
        return

    targets = [t for t in await peers.peers(tmp_path, say, fail) if "nginx" not in t.name]
    rows = await run_rounds(targets, QUICK, Place(0, 0, 1, tmp_path), say)
    assert [row.name.split()[0] for row in rows] == ["vllm-router", "sglang-router", "LiteLLM"]
    assert rows[0].failure == "no vllm-router today"
    assert not any(row.rounds or row.is_wrong for row in rows)


def test_command_lines_name_the_engine_and_the_port(tmp_path: Path) -> None:
    place = Place(0, 0, 4711, tmp_path)
    argv, _ = peers.nginx("nginx")(place, 8123)
    text = Path(argv[-1]).read_text()
    assert "server 127.0.0.1:4711;" in text
    assert "listen 127.0.0.1:8123" in text
    assert text.count("{") == text.count("}")
    argv, _ = peers.router("router", "launch")(place, 8123)
    assert argv[:4] == ["router", "launch", "--host", "127.0.0.1"]
    assert "http://127.0.0.1:4711" in argv
    argv, _ = peers.litellm(Path("litellm"))(place, 8123)
    document = yaml.safe_load((tmp_path / "litellm.yaml").read_text())
    assert document["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:4711/v1"
    assert argv[-2:] == ["--num_workers", "1"]
