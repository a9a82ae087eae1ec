"""The file of apps is believed only where nobody else could have written it."""

import os
from pathlib import Path

import pytest

from api_server.services.access.snapshot import Content, read_snapshot, write_snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "apps.snapshot"
    write_snapshot(path, Content(7, [], []))
    return path


def test_our_own_file_is_believed(path: Path) -> None:
    found = read_snapshot(path)
    assert found is not None
    assert found[0].change == 7
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert read_snapshot(path) is None


def test_a_file_of_somebody_else_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert read_snapshot(path) is None
