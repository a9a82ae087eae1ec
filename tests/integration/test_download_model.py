"""download_model.sh against a hub that plays faults (tests/hub.py): what it fetches is right, or it
is not there."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub import COMMIT, SIGNATURE, Hub, running_hub

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "download_model.sh"
TOKEN = "hf_aTokenThatNobodyMaySee"
REPO, FILE = "owner/repo", "model-q4.gguf"
KEY = f"{REPO}/{FILE}"
SOURCE = f"{REPO}:{FILE}"
CONTENT = b"GGUF" + random.Random(1).randbytes(400_000)
OTHER = b"GGUF" + random.Random(2).randbytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Desk:
    """A models folder, and the script that fetches into it."""

    hub: Hub
    models: Path
    within: tuple[str, ...] = ()  # a command that runs it

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "MODELS_DIR": str(self.models),
            "HF_ENDPOINT": self.hub.url,
            "FETCH_BACKOFF_SECONDS": "0",
            "FETCH_STALL_SECONDS": "1",
            "FETCH_ATTEMPTS": "4",
        } | variables

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.within, SCRIPT, *arguments],
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Its exit status and all that it said."""
        process = self.start(*arguments, **variables)
        said = process.communicate(timeout=40)[0]
        assert TOKEN not in said
        assert SIGNATURE not in said
        return process.returncode, said

    def lock(self, *lines: str) -> None:
        (self.models / "models.lock").write_text("# a comment\n" + "\n".join(lines) + "\n")

    def pin(self, size: object = len(CONTENT), sha256: str = SHA256) -> None:
        self.lock(f"pinned {REPO} {COMMIT} {FILE} {size} {sha256}")

    @property
    def file(self) -> Path:
        return self.models / FILE

    @property
    def part(self) -> Path:
        return self.models / f"{FILE}.part"

    def is_complete(self) -> bool:
        return self.file.read_bytes() == CONTENT and not self.part.exists()

    def wait_for_part(self, size: int) -> None:
        deadline = time.monotonic() + 10
        while not self.part.exists() or self.part.stat().st_size < size:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    models = tmp_path / "models"
    models.mkdir()
    with running_hub() as hub:
        hub.files[KEY] = CONTENT
        desk = Desk(hub, models)
        desk.pin()
        yield desk


# --- what goes well -------------------------------------------------------------------


def test_a_pinned_model_is_fetched_and_verified(desk: Desk) -> None:
    status, said = desk.run("pinned")
    assert status == 0, said
    assert desk.is_complete()
    assert desk.file.stat().st_mode & 0o444 == 0o444, "engines run as other users"
    assert desk.hub.asked[0].path == f"/{REPO}/resolve/{COMMIT}/{FILE}"
    assert not (desk.models / "models.lock.local").exists(), "the lock says it all"


def test_what_is_there_is_not_hashed_again_nor_asked_for(desk: Desk) -> None:
    desk.run("pinned")
    desk.hub.asked.clear()
    status, said = desk.run("pinned")
    assert (status, desk.hub.asked) == (0, [])
    assert "verifying" not in said


def test_verify_finds_damage_that_size_and_time_do_not_show(desk: Desk) -> None:
    desk.run("pinned")
    before = desk.file.stat()
    desk.file.write_bytes(OTHER)
    os.utime(desk.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert desk.run("pinned")[0] == 0
    status, said = desk.run("--verify", "pinned")
    assert status == 1
    assert "remove it" in said
    assert desk.file.read_bytes() == OTHER, "it may be somebody's own"


def test_a_file_that_was_put_there_is_verified_without_the_network(desk: Desk) -> None:
    desk.file.write_bytes(CONTENT)
    assert desk.run("pinned")[0] == 0
    assert desk.hub.asked == []


def test_a_file_that_was_put_there_and_is_another_is_left_alone(desk: Desk) -> None:
    desk.file.write_bytes(OTHER)
    status, said = desk.run("pinned")
    assert status == 1
    assert "another model" in said
    assert desk.file.read_bytes() == OTHER


def test_a_new_pin_replaces_what_was_fetched(desk: Desk) -> None:
    desk.run("pinned")
    desk.hub.files[KEY] = OTHER
    desk.pin(sha256=hashlib.sha256(OTHER).hexdigest())
    assert desk.run("pinned")[0] == 0
    assert desk.file.read_bytes() == OTHER


def test_the_first_fetch_pins_every_later_one(desk: Desk) -> None:
    desk.lock(f"loose {REPO} - {FILE} - -")
    assert desk.run("loose")[0] == 0
    recorded = (desk.models / "models.lock.local").read_text().splitlines()
    assert recorded[1:] == [f"loose {REPO} {COMMIT} {FILE} {len(CONTENT)} {SHA256}"]
    desk.file.unlink()
    desk.hub.files[KEY] = OTHER
    status, said = desk.run("loose")
    assert status == 1
    assert "Nothing was fetched" in said
    assert len(desk.hub.downloads()) == 1


@pytest.mark.parametrize("source", [SOURCE, f"{REPO}@v1.0:{FILE}", f"{REPO}@{COMMIT}:{FILE}"])
def test_any_file_of_any_repository(desk: Desk, source: str) -> None:
    assert desk.run(source)[0] == 0
    assert desk.is_complete()
    desk.file.unlink()
    desk.hub.files[KEY] = OTHER
    assert desk.run(source)[0] == 1, "it was pinned by the first fetch"


def test_a_small_file_is_verified_by_its_hash_of_git(desk: Desk) -> None:
    desk.hub.lfs = False
    assert desk.run(SOURCE)[0] == 0
    assert desk.is_complete()
    desk.file.unlink()
    (desk.models / "models.lock.local").unlink()
    desk.hub.faults.extend(["corrupt", "corrupt"])
    status, said = desk.run(SOURCE)
    assert status == 1
    assert "second time" in said


def test_a_name_with_several_files_is_a_folder(desk: Desk) -> None:
    for name in ("config.json", "sub/weights.safetensors"):
        desk.hub.files[f"{REPO}/{name}"] = name.encode()
    desk.lock(f"folder {REPO} - config.json - -", f"folder {REPO} - sub/weights.safetensors - -")
    assert desk.run("--print-file", "folder") == (0, "folder\n")
    assert desk.run("folder")[0] == 0
    found = sorted(path for path in (desk.models / "folder").rglob("*") if path.is_file())
    assert [path.read_text() for path in found] == ["config.json", "sub/weights.safetensors"]


def test_a_renamed_repository_is_followed_with_the_token(desk: Desk) -> None:
    desk.hub.moved, desk.hub.token = True, TOKEN
    assert desk.run("pinned", HF_TOKEN=TOKEN)[0] == 0
    assert desk.is_complete()


def test_the_names_and_their_files(desk: Desk) -> None:
    status, said = desk.run("--list", MODELS_DIR=str(ROOT / "models"))
    assert status == 0
    assert {"llama-3.3-8b-instruct", "nomic-embed-text-v1.5"} <= set(said.split())
    real = {"MODELS_DIR": str(ROOT / "models")}
    pinned = desk.run("--print-file", "llama-3.1-8b-instruct", **real)
    assert pinned == (0, "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf\n")
    default = desk.run("--print-file", "llama-3.3-8b-instruct", **real)[1].strip()
    assert f"${{MODEL_FILE:-{default}}}" in (ROOT / "docker-compose.yaml").read_text()


def test_the_unclear_licence_is_said(desk: Desk) -> None:
    status, said = desk.run(OFFLINE="1", MODELS_DIR=str(ROOT / "models"))
    assert "licence" in said
    assert "llama-3.1-8b-instruct" in said
    assert status in (0, 1)  # where somebody has fetched it, it is there


def test_a_host_without_curl(desk: Desk, tmp_path: Path) -> None:
    """`make start` asks for the name of a file there; fetching is done in a container."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "cat", "realpath", "dirname", "mktemp", "rm", "stat", "tr"):
        (programs / name).symlink_to(shutil.which(name) or name)
    assert desk.run("--print-file", "pinned", PATH=str(programs)) == (0, f"{FILE}\n")
    status, said = desk.run("pinned", PATH=str(programs))
    assert status == 1
    assert "apt install curl" in said


# --- faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["truncate", "reset", "stall"])
def test_a_download_that_breaks_goes_on_where_it_was(desk: Desk, fault: str) -> None:
    desk.hub.faults.append(fault)
    status, said = desk.run("pinned")
    assert status == 0, said
    assert desk.is_complete()
    second = desk.hub.downloads()[1]
    assert second.start > 0
    assert second.sent == len(CONTENT) - second.start


@pytest.mark.parametrize("fault", ["corrupt", "shorter", "longer", "endless", "416", "403", "500"])
def test_a_wrong_answer_is_followed_by_a_right_one(desk: Desk, fault: str) -> None:
    desk.hub.faults.append(fault)
    status, said = desk.run("pinned")
    assert status == 0, said
    assert desk.is_complete()
    assert len(desk.hub.downloads()) == 2
    assert desk.hub.downloads()[1].start == 0


def test_a_download_that_is_always_corrupt_leaves_nothing(desk: Desk) -> None:
    desk.hub.faults.extend(["corrupt"] * 9)
    status, said = desk.run("pinned")
    assert status == 1
    assert "second time" in said
    assert not desk.file.exists()
    assert not desk.part.exists()
    assert len(desk.hub.downloads()) == 2


def test_a_corrupt_part_is_found_and_fetched_anew(desk: Desk) -> None:
    desk.hub.faults.extend(["truncate"])
    assert desk.run("pinned", FETCH_ATTEMPTS="1")[0] == 1
    desk.part.write_bytes(b"x" * desk.part.stat().st_size)
    assert desk.run("pinned")[0] == 0
    assert desk.is_complete()


def test_a_server_that_ignores_ranges(desk: Desk) -> None:
    desk.hub.ranges = False
    desk.hub.faults.append("truncate")
    status, said = desk.run("pinned")
    assert status == 0, said
    assert desk.is_complete()
    assert "cannot go on" in said


def test_a_server_that_ignores_ranges_and_always_breaks(desk: Desk) -> None:
    desk.hub.ranges = False
    desk.hub.faults.extend(["truncate"] * 99)
    status, said = desk.run("pinned")
    assert status == 1
    assert "cannot resume" in said
    assert not desk.file.exists()


def test_a_part_that_the_server_refuses_to_extend(desk: Desk) -> None:
    desk.hub.faults.extend(["truncate", "416"])
    status, said = desk.run("pinned")
    assert status == 0, said
    assert desk.is_complete()
    assert [asked.start for asked in desk.hub.downloads()][-1] == 0


@pytest.mark.parametrize(("where", "answer"), [("hub", 429), ("cdn", 503)])
def test_retry_after_is_kept_to(desk: Desk, where: str, answer: int) -> None:
    if where == "hub":
        desk.hub.head_faults.append(answer)
    else:
        desk.hub.faults.append(str(answer))
    start = time.monotonic()
    status, said = desk.run("pinned")
    assert status == 0, said
    assert time.monotonic() - start >= 1
    assert desk.is_complete()


def test_attempts_are_bounded(desk: Desk) -> None:
    desk.hub.head_faults.extend([500] * 99)
    status, said = desk.run("pinned", FETCH_ATTEMPTS="2")
    assert status == 1
    assert "run the same command again" in said
    assert len(desk.hub.asked) == 2


def test_a_hub_that_is_not_there(desk: Desk) -> None:
    status, said = desk.run("pinned", HF_ENDPOINT="http://127.0.0.1:1", FETCH_ATTEMPTS="2")
    assert status == 1
    assert "OFFLINE=1" in said


def test_a_file_that_changes_meanwhile_is_begun_anew(desk: Desk) -> None:
    desk.hub.faults.append("truncate")
    assert desk.run(SOURCE, FETCH_ATTEMPTS="1")[0] == 1
    assert desk.part.exists()
    desk.hub.files[KEY] = OTHER
    status, said = desk.run(SOURCE)
    assert status == 0, said
    assert "has changed" in said
    assert desk.file.read_bytes() == OTHER
    assert desk.hub.downloads()[-1].start == 0


@pytest.mark.parametrize("says", ["size", "sha256"])
def test_another_content_than_the_pinned_one_is_not_fetched(desk: Desk, says: str) -> None:
    if says == "size":
        desk.pin(size=5)
    else:
        desk.hub.files[KEY] = OTHER
    status, said = desk.run("pinned")
    assert status == 1
    assert "Nothing was fetched" in said
    assert desk.hub.downloads() == []


def test_a_hub_that_names_no_hash_is_refused_without_one(desk: Desk) -> None:
    desk.hub.says_etag = False
    status, said = desk.run(SOURCE)
    assert status == 1
    assert "SHA256=" in said
    assert desk.hub.downloads() == []
    assert desk.run(SOURCE, SHA256=SHA256)[0] == 0
    assert desk.is_complete()
    desk.file.unlink()
    assert desk.run(SOURCE)[0] == 0, "it was recorded"


def test_a_given_hash_that_is_wrong(desk: Desk) -> None:
    desk.hub.says_etag = False
    assert desk.run(SOURCE, SHA256="0" * 64)[0] == 1
    assert not desk.file.exists()
    assert desk.run(SOURCE, SHA256="hello")[0] == 1


def test_no_room_is_said_before_anything_is_fetched(desk: Desk) -> None:
    desk.hub.says_size = 10**14
    status, said = desk.run(SOURCE)
    assert status == 1
    assert "no room" in said
    assert desk.hub.downloads() == []
    desk.hub.asked.clear()
    desk.pin(size=10**14)
    assert "no room" in desk.run("pinned")[1]
    assert desk.hub.asked == []


def test_a_disk_that_is_full_meanwhile_keeps_what_came(desk: Desk) -> None:
    small_disk = "trap '' XFSZ; ulimit -S -f 100; exec \"$@\""  # in KiB, for every file
    desk.within = ("bash", "-c", small_disk, "bash")
    status, said = desk.run("pinned")
    desk.within = ()
    assert status == 1
    assert "disk full" in said
    assert desk.part.stat().st_size == 102_400
    assert desk.run("pinned")[0] == 0
    assert desk.is_complete()
    assert desk.hub.downloads()[-1].start == 102_400


def test_a_file_that_is_not_in_the_repository(desk: Desk) -> None:
    status, said = desk.run(f"{REPO}:no.gguf")
    assert status == 1
    assert "/tree/main" in said
    assert len(desk.hub.asked) == 1


# --- the token ------------------------------------------------------------------------


def test_a_gated_repository(desk: Desk) -> None:
    desk.hub.token = "another"
    status, said = desk.run("pinned")
    assert status == 1
    assert "set HF_TOKEN" in said
    status, said = desk.run("pinned", HF_TOKEN=TOKEN)
    assert status == 1
    assert "account of the token" in said
    assert len(desk.hub.asked) == 2, "asking again would not help"


def test_only_the_hub_sees_the_token(desk: Desk) -> None:
    desk.hub.token = TOKEN
    desk.hub.faults.append("slow")
    process = desk.start("pinned", HF_TOKEN=TOKEN)
    desk.wait_for_part(50_000)
    lines, environments = b"", b""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines += (folder / "cmdline").read_bytes()
            if b"curl" in (folder / "cmdline").read_bytes():
                environments += (folder / "environ").read_bytes()
        except OSError:  # it has ended
            continue
    assert b"--dump-header" in lines, "curl was looked at"
    assert TOKEN.encode() not in lines
    assert SIGNATURE.encode() not in lines
    assert TOKEN.encode() not in environments
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert TOKEN not in said
    tokens = {asked.where: asked.token for asked in desk.hub.asked}
    assert tokens == {"hub": f"Bearer {TOKEN}", "cdn": None}
    kept = b"".join(path.read_bytes() for path in desk.models.rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept


def test_a_token_does_not_cross_a_network_readable(desk: Desk) -> None:
    status, said = desk.run("pinned", HF_TOKEN=TOKEN, HF_ENDPOINT="http://hub.example")
    assert status == 1
    assert "readable" in said


@pytest.mark.parametrize("token", ['a"b', "a\nurl=http://x", "a b"])
def test_a_token_that_is_none(desk: Desk, token: str) -> None:
    status, said = desk.run("pinned", HF_TOKEN=token)
    assert status == 1
    assert "HF_TOKEN has characters" in said
    assert desk.hub.asked == []


# --- interruptions --------------------------------------------------------------------


def curls_at(folder: Path) -> list[Path]:
    """The processes whose arguments name a path below this folder, but not shells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith((b"curl\0", b"setpriv\0")) and str(folder).encode() in line:
            found.append(process)
    return found


def test_after_kill_only_the_rest_is_fetched(desk: Desk) -> None:
    desk.hub.faults.append("slow")
    process = desk.start("pinned")
    desk.wait_for_part(100_000)
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while curls_at(desk.models):
        assert time.monotonic() < deadline, "curl outlived its script"
        time.sleep(0.05)
    have = desk.part.stat().st_size
    assert 100_000 <= have < len(CONTENT)
    assert desk.run("pinned")[0] == 0
    assert desk.is_complete()
    rest = desk.hub.downloads()[-1]
    assert (rest.start, rest.sent) == (have, len(CONTENT) - have)


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_what_came(desk: Desk, told: signal.Signals, status: int) -> None:
    desk.hub.faults.append("slow")
    process = desk.start("pinned")
    desk.wait_for_part(50_000)
    os.killpg(process.pid, told) if told is signal.SIGINT else process.send_signal(told)
    said = process.communicate(timeout=10)[0]
    assert process.returncode == status
    assert "what came is kept" in said
    assert curls_at(desk.models) == []
    assert desk.part.stat().st_size >= 50_000
    assert desk.run("pinned")[0] == 0
    assert desk.is_complete()


def test_of_two_runs_the_second_waits(desk: Desk) -> None:
    desk.hub.faults.append("slow")
    first = desk.start("pinned")
    desk.wait_for_part(50_000)
    status, said = desk.run("pinned")
    assert status == 0, said
    assert "waiting" in said
    assert first.wait(timeout=20) == 0
    first.communicate()
    assert desk.is_complete()
    assert len(desk.hub.downloads()) == 1


def test_the_second_run_does_not_wait_for_ever(desk: Desk) -> None:
    desk.hub.faults.append("slow")
    first = desk.start("pinned")
    desk.wait_for_part(50_000)
    status, said = desk.run("pinned", FETCH_WAIT_SECONDS="1")
    assert status == 1
    assert "FETCH_WAIT_SECONDS" in said
    assert "verified" in first.communicate(timeout=20)[0]


def test_progress_is_said_line_by_line_without_a_terminal(desk: Desk) -> None:
    desk.hub.faults.append("slow")
    said = desk.run("pinned", FETCH_PROGRESS_SECONDS="1")[1]
    assert f"{FILE}: 0." in said
    assert "%" in said
    assert "\r" not in said


# --- without a network ----------------------------------------------------------------


def test_offline_says_what_is_missing_and_where_it_goes(desk: Desk) -> None:
    status, said = desk.run("pinned", OFFLINE="1")
    assert status == 1
    assert str(desk.file) in said
    assert SHA256 in said
    assert desk.hub.asked == []


def test_offline_takes_what_is_there(desk: Desk) -> None:
    desk.lock(f"loose {REPO} - {FILE} - -")
    desk.file.write_bytes(CONTENT)
    status, said = desk.run("loose", OFFLINE="1")
    assert status == 0
    assert "used as it is" in said
    assert desk.hub.asked == []


def test_a_file_that_is_there_needs_no_hub(desk: Desk) -> None:
    desk.lock(f"loose {REPO} - {FILE} - -")
    desk.file.write_bytes(CONTENT)
    assert desk.run("loose", HF_ENDPOINT="http://127.0.0.1:1")[0] == 0
    assert desk.run("loose")[0] == 0, "now the hub is there, and says the same"
    assert SHA256 in (desk.models / "models.lock.local").read_text()
    desk.file.write_bytes(OTHER)
    assert desk.run("loose")[0] == 1


def test_a_file_from_elsewhere_gets_a_place_below_models(desk: Desk, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(OTHER)
    assert desk.run("--print-file", str(own)) == (0, "own.gguf\n")
    assert desk.run(str(own), OFFLINE="1")[0] == 0
    assert (desk.models / "own.gguf").read_bytes() == OTHER
    assert desk.run("own.gguf", OFFLINE="1")[0] == 0
    assert desk.hub.asked == []


def test_a_file_that_is_no_model(desk: Desk) -> None:
    (desk.models / "own.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    status, said = desk.run("own.gguf")
    assert status == 1
    assert "pointer" in said


# --- what compose asks for ------------------------------------------------------------


def test_compose_fetches_both_models(desk: Desk) -> None:
    desk.hub.files["owner/other/embed.gguf"] = OTHER
    wanted = {"MODEL_SOURCE": "pinned", "MODEL_FILE": FILE, "EMBEDDINGS_FILE": "embed.gguf"}
    status, said = desk.run("--for-compose", EMBEDDINGS_SOURCE="owner/other:embed.gguf", **wanted)
    assert status == 0, said
    assert desk.is_complete()
    assert (desk.models / "embed.gguf").read_bytes() == OTHER


@pytest.mark.parametrize(("engine", "fetched"), [("external", False), ("max", True)])
def test_compose_fetches_what_the_engine_needs(desk: Desk, engine: str, fetched: bool) -> None:
    status, said = desk.run("--for-compose", ENGINE=engine, MODEL_SOURCE="pinned")
    assert status == 0, said
    assert desk.file.exists() is fetched
    assert ("MAX reads GGUF files on the CPU only" in said) is (engine == "max")


def test_compose_takes_a_model_file_that_is_there(desk: Desk) -> None:
    (desk.models / "tiny").mkdir()
    (desk.models / "tiny" / "own.gguf").write_bytes(OTHER)
    named = {"MODEL_SOURCE": "no-such-name", "EMBEDDINGS_SOURCE": "none"}
    status, said = desk.run("--for-compose", MODEL_FILE="tiny/own.gguf", **named)
    assert status == 0, said
    assert desk.hub.asked == []
    status, said = desk.run("--for-compose", MODEL_FILE="tiny/no.gguf", **named)
    assert status == 1
    assert "tiny/no.gguf is missing" in said


def test_a_model_that_the_engine_could_not_read_is_opened_to_it(desk: Desk) -> None:
    (desk.models / "own.gguf").write_bytes(OTHER)
    (desk.models / "own.gguf").chmod(0o600)
    desk.models.chmod(0o700)
    assert desk.run("--for-compose", MODEL_FILE="own.gguf", MODEL_SOURCE="pinned")[0] == 0
    assert (desk.models / "own.gguf").stat().st_mode & 0o777 == 0o644
    assert desk.models.stat().st_mode & 0o777 == 0o755


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        f"{REPO}:../{FILE}",
        f"{REPO}:/etc/passwd",
        f"{REPO}:a/../../b.gguf",
        f"{REPO}:.hidden.gguf",
        f"{REPO}:models.lock",
        f"{REPO}:models.lock.local",
        f"{REPO}:-o.gguf",
        f"{REPO}:a b.gguf",
        f"{REPO}:a?b.gguf",
        f"{REPO}:x.part",
        f"{REPO}@../..:{FILE}",
        "no-such-name",
        "../own.gguf",
        "/no/such/file.gguf",
    ],
)
def test_no_source_leaves_the_models_folder(desk: Desk, source: str) -> None:
    before = sorted(desk.models.parent.rglob("*"))
    status, said = desk.run(source)
    assert status == 1
    assert "error: " in said
    assert sorted(desk.models.parent.rglob("*")) == before
    assert desk.hub.asked == []


@pytest.mark.parametrize("path", ["../x.gguf", "/etc/passwd", "a/../../x.gguf"])
def test_no_model_file_leaves_the_models_folder(desk: Desk, path: str) -> None:
    status, said = desk.run("--for-compose", MODEL_SOURCE="pinned", MODEL_FILE=path)
    assert status == 1
    assert "cannot be a file below models/" in said


@pytest.mark.parametrize(
    "line",
    [
        f"name {REPO} - {FILE} 5",
        f"name {REPO} - {FILE} 5 - and more",
        f"name repo - {FILE} - -",
        f"name {REPO} main {FILE} - -",
        f"name {REPO} - ../{FILE} - -",
        f"name {REPO} - {FILE} 4.9GB -",
        f"name {REPO} - {FILE} - {SHA256.upper()}",
        f"name {REPO} - {FILE} - {SHA256[:-1]}",
        f"name/.. {REPO}$(id) - {FILE} - -",
    ],
)
def test_a_mistake_in_the_lock_is_named_with_its_line(desk: Desk, line: str) -> None:
    desk.lock(f"good {REPO} - {FILE} - -", line)
    status, said = desk.run("good")
    assert status == 1
    assert "models.lock, line 3: " in said
    assert desk.hub.asked == []


def test_a_file_twice_in_the_lock(desk: Desk) -> None:
    desk.lock(f"good {REPO} - {FILE} - -", f"good {REPO} - {FILE} - {SHA256}")
    assert "twice" in desk.run("good")[1]


@pytest.mark.parametrize("arguments", [["--hello"], ["--print-file"]])
def test_unknown_arguments(desk: Desk, arguments: list[str]) -> None:
    assert desk.run(*arguments)[0] == 1
    assert desk.run("pinned", OFFLINE="maybe")[0] == 1
    assert desk.run("pinned", HF_ENDPOINT="hub")[0] == 1
