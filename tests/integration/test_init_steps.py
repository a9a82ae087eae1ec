"""The steps of init.sh: the checks, `.env`, the plan. On machines that are played; bring-up with
Docker is in tests/compose.
"""

import re
import shutil
import stat
from pathlib import Path

import pytest

from tests.host import Host, make_host

SECRETS = (
    *("POSTGRES_PASSWORD", "REDIS_PASSWORD", "QDRANT_API_KEY", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
    *("ENGINE_API_KEY", "GRAFANA_PASSWORD", "GRAFANA_POSTGRES_PASSWORD"),
)
PLAN = (
    "ENGINE_SLOTS=32\nENGINE_CONTEXT_TOKENS=4096\nLLAMA_CPP_FLAGS=--parallel 32 --ctx-size 131072"
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def test_a_host_without_docker(host: Host) -> None:
    (host.programs / "docker").unlink()
    assert "Docker is not installed. Install it" in host.refuses("check_docker")


def test_a_user_who_may_not_use_docker(host: Host) -> None:
    host.docker(version="echo 'dial unix docker.sock: permission denied' >&2; exit 1")
    assert "sudo usermod -aG docker" in host.refuses("check_docker")


def test_a_docker_that_does_not_run(host: Host) -> None:
    host.docker(version="echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert "sudo systemctl start docker" in host.refuses("check_docker")


def test_an_old_docker(host: Host) -> None:
    host.docker(version="echo 19.03.8")
    assert "Docker 19.03.8 is too old: 20.10 is needed." in host.refuses("check_docker")


def test_compose_2_goes_before_compose_1(host: Host) -> None:
    host.program("docker-compose", {"version --short": "echo 1.29.2"})
    assert "2.24.5 (docker compose)" in host.accepts("check_compose")
    chosen = host.accepts("check_compose", COMPOSE="docker-compose")
    assert "1.29.2 (docker-compose)" in chosen


def test_compose_1_alone(host: Host) -> None:
    host.docker(**{"compose_version_--short": "exit 125"})
    assert "Docker Compose is not installed." in host.refuses("check_compose")
    host.program("docker-compose", {"version --short": "echo 1.25.0"})
    assert "is too old: docker-compose 1.25.0" in host.refuses("check_compose")
    host.program("docker-compose", {"version --short": "echo 1.29.2"})
    assert "1.29.2 (docker-compose)" in host.accepts("check_compose")


def test_a_host_without_a_gpu_is_offered_the_cpu(host: Host) -> None:
    said = host.refuses("pci_devices() { :; }; check_device")
    assert "No NVIDIA GPU was found on this machine." in said
    assert "make start DEVICE=cpu" in said
    assert "on the CPU" in host.accepts("check_device", DEVICE="cpu")


def test_a_gpu_without_a_driver(host: Host) -> None:
    listed = r"pci_devices() { printf 'DRIVER=\nPCI_CLASS=30200\nPCI_ID=10DE:20B0\n'; }"
    assert "no driver for it" in host.refuses(f"{listed}; check_device")


def test_a_driver_that_finds_nothing(host: Host) -> None:
    host.program("nvidia-smi", {"*": "echo 'Failed to initialize NVML'; exit 18"})
    assert "finds no GPU that works" in host.refuses("check_device")


def test_an_old_driver(host: Host) -> None:
    host.gpus(24564, driver="470.256.02")
    assert "driver 470.256.02 is too old for CUDA 12" in host.refuses("check_device")


def test_two_gpus(host: Host) -> None:
    host.gpus(24564, 16380)
    said = host.accepts("check_device; device")
    assert "GPU memory of 24564,16380 MiB, driver 550.54.15" in said
    assert said.endswith("gpu")


def test_a_gpu_that_docker_cannot_hand_on(host: Host) -> None:
    host.gpus(24564)
    host.docker(**{"info_--format_{{json .}}": """echo '{"Runtimes":{"runc":{}}}'"""})
    assert "the NVIDIA container toolkit is missing" in host.refuses("check_device")
    host.program("nvidia-ctk", {})
    assert "but Docker does not know it" in host.refuses("check_device")


def test_a_container_that_sees_no_gpu(host: Host) -> None:
    host.gpus(24564)
    host.docker(run="echo 'nvidia-container-cli: initialization error' >&2; exit 125")
    said = host.refuses("check_gpu_in_container")
    assert "sees no GPU: nvidia-container-cli: initialization error" in said
    host.docker(run="echo 'GPU 0: NVIDIA L4 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA L4 (UUID: GPU-2)'")
    assert "2 GPU seen" in host.accepts("check_gpu_in_container")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ENGINE": "Max!"}, "ENGINE=Max! is no engine."),
        ({"DEVICE": "tpu"}, "DEVICE=tpu is no device."),
        ({"ENGINE": "external"}, "ENGINE_URLS does not say"),
        ({"ENGINE": "external", "ENGINE_URLS": "http://a:1"}, "ENGINE_SLOTS does not say"),
        ({"MODEL_SOURCE": "nonsense"}, "MODEL_SOURCE=nonsense names no model."),
    ],
)
def test_choices_that_are_none(host: Host, variables: dict[str, str], said: str) -> None:
    assert said in host.refuses("check_choices", **variables)


def test_too_little_memory(host: Host) -> None:
    little = "meminfo() { echo 'MemTotal: 6291456 kB'; }"
    assert "has 6144 MiB of memory" in host.refuses(f"{little}; check_memory", DEVICE="cpu")
    (host.folder / "models/small.gguf").write_bytes(b"small")
    said = host.accepts(f"{little}; check_memory", DEVICE="cpu", MODEL_FILE="small.gguf")
    assert "6144 MiB" in said
    host.accepts(f"{little}; check_memory", DEVICE="gpu")


def test_a_full_disk(host: Host) -> None:
    lines = "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; "
    host.program("df", {"*": lines + "echo '/dev/vda1 9 9 4194304 9% /'"})
    said = host.refuses("check_disk", DEVICE="cpu")
    assert "has 4096 MiB left, and images, models and data need about 11924." in said


def test_what_is_here_needs_no_disk(host: Host) -> None:
    lines = "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; "
    host.program("df", {"*": lines + "echo '/dev/vda1 9 9 4194304 9% /'"})
    host.docker(image_inspect="true")
    (host.folder / "models/small.gguf").write_bytes(b"small")
    host.accepts("check_disk", DEVICE="cpu", MODEL_FILE="small.gguf")


def test_a_port_that_another_program_has(host: Host) -> None:
    open_port = "is_port_open() { [[ $1 == 8000 ]]; }"
    said = host.refuses(f"{open_port}; check_ports")
    assert "Port 8000 is taken." in said
    assert "make start API_PORT=8001" in said
    host.docker(ps="echo 'another another-web-1'")
    assert "taken by the container another-web-1" in host.refuses(f"{open_port}; check_ports")
    host.docker(ps="echo 'llm-serving-stack front-1'")
    assert "port 8000 is ours already" in host.accepts(f"{open_port}; check_ports")


@pytest.mark.parametrize("port", ["0", "00080", "65536", "http"])
def test_a_port_that_is_none(host: Host, port: str) -> None:
    assert f"API_PORT={port} is no port." in host.refuses("check_ports", API_PORT=port)


def test_an_address_is_never_executed(host: Host) -> None:
    host.env_file.write_text("BIND_ADDRESS=127.0.0.1$(echo>executed)\n")
    host.call("check_ports")
    assert not (host.folder / "executed").exists()


def test_env_file_is_made_with_secrets_and_for_its_owner_alone(host: Host) -> None:
    said = host.accepts("check_env_file; write_env_file", DEVICE="cpu")
    settings = host.settings()
    assert stat.S_IMODE(host.env_file.stat().st_mode) == 0o600
    assert settings["DEVICE"] == "cpu"
    values = [settings[name] for name in SECRETS]
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", value) for value in values)
    assert len(set(values)) == len(values)
    assert not any(value in said for value in values)


def test_env_file_is_left_as_it_is(host: Host) -> None:
    host.accepts("write_env_file", DEVICE="cpu")
    before = host.env_file.read_bytes(), host.env_file.stat().st_mtime_ns
    host.accepts("check_env_file; write_env_file")
    assert (host.env_file.read_bytes(), host.env_file.stat().st_mtime_ns) == before


def test_what_stands_in_the_env_file_stays_and_the_rest_is_added(host: Host) -> None:
    mine = '# mine\nREDIS_PASSWORD="kept-kept-1234"   # a word\n\nexport API_PORT=9000'
    host.env_file.write_text(mine)
    host.env_file.chmod(0o644)
    host.accepts("check_env_file; write_env_file")
    text = host.env_file.read_text()
    assert text.startswith(mine + "\n")
    assert text.count("REDIS_PASSWORD") == 1
    assert stat.S_IMODE(host.env_file.stat().st_mode) == 0o600
    assert host.accepts("setting REDIS_PASSWORD; echo; setting API_PORT") == "kept-kept-1234\n9000"


def test_a_umask_does_not_keep_containers_from_their_configuration(host: Host) -> None:
    for name in ("configs", "init-scripts", "load_tests", "monitoring"):
        (host.folder / name).mkdir(mode=0o700)
    file = host.folder / "configs/stack.yaml"
    file.touch(mode=0o600)
    host.accepts("let_containers_read")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


def test_a_choice_takes_the_place_of_the_one_before(host: Host) -> None:
    host.env_file.write_text("DEVICE=cpu\nREDIS_PASSWORD=kept-kept-1234\n")
    assert "kept in .env: DEVICE=gpu" in host.accepts("write_env_file", DEVICE="gpu")
    assert host.env_file.read_text().startswith("DEVICE=gpu\nREDIS_PASSWORD=kept-kept-1234\n")


def test_a_choice_that_the_plan_has_too_is_kept_when_the_plan_changes(host: Host) -> None:
    host.accepts(f"put_plan '{PLAN}'")
    of_it = {"ENGINE_URLS": "http://a:1", "ENGINE_SLOTS": "32", "ENGINE_CONTEXT_TOKENS": "4096"}
    host.accepts("write_env_file; put_plan COMPOSE_PROFILES=", ENGINE="external", **of_it)
    assert of_it.items() <= host.settings().items()


def test_other_files_and_models_are_kept_for_the_next_start(host: Host) -> None:
    files = "docker-compose.seaweedfs.yaml"
    host.accepts(
        "write_env_file",
        COMPOSE_EXTRA_FILES=files,
        EMBEDDINGS_SOURCE="none",
        COMPOSE_PROJECT_NAME="two",
    )
    settings = host.settings()
    assert settings["COMPOSE_EXTRA_FILES"] == files
    assert settings["EMBEDDINGS_SOURCE"] == "none"
    assert settings["COMPOSE_PROJECT_NAME"] == "two"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD is empty."),
        ("POSTGRES_PASSWORD=change-me-please-123", None),
        ("POSTGRES_PASSWORD=changeme123456", "POSTGRES_PASSWORD is a placeholder"),
        ("GRAFANA_PASSWORD=admin", "GRAFANA_PASSWORD is a placeholder"),
        ("S3_SECRET_KEY=minioadmin", "S3_SECRET_KEY is a placeholder"),
        ("REDIS_PASSWORD=xxxxxxxxxxxxxxxx", "REDIS_PASSWORD is a placeholder"),
        ("REDIS_PASSWORD=Tr0ub4dor", "REDIS_PASSWORD is shorter than 12 characters."),
        ("REDIS_PASSWORD=Tr0ub4dor/3@host:1", "REDIS_PASSWORD holds characters that break"),
    ],
)
def test_secrets_of_the_user_are_checked_and_never_shown(
    host: Host, line: str, said: str | None
) -> None:
    host.env_file.write_text(f"{line}\n")
    if said is None:
        host.accepts("check_env_file")
        return
    output = host.refuses("check_env_file")
    assert said in output
    assert "make start then makes one" in output
    value = line.partition("=")[2]
    assert not value or value not in output


def test_a_dollar_that_compose_would_replace(host: Host) -> None:
    host.env_file.write_text("HF_TOKEN='a$b'\nAPI_PORT=8000 # $\n")
    host.accepts("check_env_file")
    host.env_file.write_text("JWT_SECRET=abc$def-and-more\n")
    said = host.refuses("check_env_file")
    assert "JWT_SECRET in .env" in said
    assert "def-and" not in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("API_PROT=80", "API_PROT in .env is no name that anything here reads. Is API_PORT meant?"),
        ("export Api_Port=80", "Api_Port in .env"),
        ("SOMETHING_ELSE=1", "reads. .env.example has all names"),
        ("MY_CLOUD_KEY=abc", None),
        ("HUB_TOKEN=abc", None),
        ("# API_PROT=80", None),
        ("LOG_LEVEL=debug", None),
    ],
)
def test_a_name_that_nothing_reads_is_a_typing_mistake(
    host: Host, line: str, said: str | None
) -> None:
    host.env_file.write_text(f"{line}\n")
    if said is None:
        host.accepts("check_env_file")
    else:
        assert said in host.refuses("check_env_file")


def test_names_of_ones_own_compose_files_are_known(host: Host) -> None:
    (host.folder / "mine.yaml").write_text("services: {mine: {image: '${MINE_IMAGE:-mine}'}}\n")
    host.env_file.write_text("COMPOSE_EXTRA_FILES=mine.yaml\nMINE_IMAGE=mine:2\n")
    host.accepts("check_env_file")


def test_what_compose_cannot_read_is_said_in_its_words(host: Host) -> None:
    host.docker(
        compose_config="echo 'failed to read .env: line 3: unexpected character' >&2; exit 1"
    )
    said = host.refuses("check_compose_files")
    assert "cannot read its files: failed to read .env: line 3" in said
    host.docker(compose_config="true")
    host.accepts("check_compose_files")


def test_settings_that_the_gateway_refuses_are_said_in_its_words(host: Host) -> None:
    host.docker(compose_run="echo Creating; echo \"error: LOG_LEVEL is 'loud'.\" >&2; exit 1")
    said = host.refuses("check_gateway_settings")
    assert "with these settings: error: LOG_LEVEL is 'loud'. Put right" in said
    host.docker(compose_run="echo 'warning: `serve` would refuse to start with this: no'")
    assert "would refuse to start with this: no" in host.refuses("check_gateway_settings")
    host.docker(compose_run="echo 'configs/stack.yaml: ok. Models: m.'")
    host.accepts("check_gateway_settings")


EXTERNAL = "ENGINE=external\nENGINE_URLS=http://a:1\nENGINE_SLOTS=9\nENGINE_CONTEXT_TOKENS=512\n"


@pytest.mark.parametrize("engine", ["llama-cpp", "max"])
def test_an_engine_of_here_forgets_the_addresses_of_one_elsewhere(host: Host, engine: str) -> None:
    host.env_file.write_text(EXTERNAL)
    said = host.accepts(f"write_env_file; put_plan '{PLAN}'", ENGINE=engine)
    assert "ENGINE_URLS=http://a:1 of the engine before is taken out" in said
    settings = host.settings()
    assert settings["ENGINE"] == engine
    assert "ENGINE_URLS" not in settings
    assert (settings["ENGINE_SLOTS"], settings["ENGINE_CONTEXT_TOKENS"]) == ("32", "4096")


def test_what_is_said_along_with_another_engine_is_kept(host: Host) -> None:
    host.env_file.write_text(EXTERNAL)
    host.accepts("write_env_file", ENGINE="llama-cpp", ENGINE_SLOTS="9")
    assert host.settings()["ENGINE_SLOTS"] == "9"
    assert "ENGINE_URLS" not in host.settings()
    host.accepts("write_env_file")
    assert host.settings()["ENGINE_SLOTS"] == "9"


def test_another_kind_of_engine_elsewhere_may_have_the_same_address(host: Host) -> None:
    host.env_file.write_text(EXTERNAL)
    host.accepts("check_choices; write_env_file", ENGINE="vllm")
    assert host.settings()["ENGINE_URLS"] == "http://a:1"


def test_an_engine_elsewhere_is_not_described_by_the_plan_of_one_here(host: Host) -> None:
    host.accepts(f"put_plan '{PLAN}\nENGINE_URLS=http://llama-cpp:8080'")
    assert "ENGINE_URLS does not say" in host.refuses("check_choices", ENGINE="external")
    said = host.refuses("check_choices", ENGINE="external", ENGINE_URLS="http://a:1")
    assert "ENGINE_SLOTS does not say" in said
    assert "make start ENGINE=max" in host.refuses("refuse_other_engine", ENGINE="max")


def test_old_data_without_its_password_is_not_locked_away(host: Host) -> None:
    host.docker(volume_inspect="""[[ $3 == llm-serving-stack_postgres-data ]]""")
    said = host.refuses("write_env_file")
    assert "does not have its POSTGRES_PASSWORD" in said
    assert not host.env_file.exists()
    host.env_file.write_text("POSTGRES_PASSWORD=kept-kept-1234\n")
    host.accepts("write_env_file")


def test_the_plan_is_written_between_its_markers_and_anew(host: Host) -> None:
    host.env_file.write_text("MINE=1\n")
    host.accepts(f"put_plan '{PLAN}'")
    host.accepts("put_plan 'ENGINE_SLOTS=16'; remember STACK_API_KEY sk-1")
    text = host.env_file.read_text()
    assert text.startswith("MINE=1\nSTACK_API_KEY=sk-1\n# --- planned by make start")
    assert text.endswith("\nENGINE_SLOTS=16\n# --- end of the plan ---\n")
    assert text.count("ENGINE_SLOTS") == 1


def test_values_of_the_user_win_over_the_plan(host: Host) -> None:
    host.env_file.write_text("ENGINE_SLOTS=8\n")
    host.accepts(f"put_plan '{PLAN}'")
    assert host.settings()["ENGINE_SLOTS"] == "8"
    assert host.settings()["ENGINE_CONTEXT_TOKENS"] == "4096"
    assert host.accepts("setting ENGINE_SLOTS") == "8"


def test_the_plan_is_asked_for_what_was_measured(host: Host) -> None:
    host.gpus(24564, 24564)
    host.docker(
        run="""printf '%s\\n' "$*" >asked; echo MAX_FLAGS=--devices gpu; echo 'two engines' >&2"""
    )
    said = host.accepts("meminfo() { echo 'MemTotal: 67108864 kB'; }; write_plan", ENGINE="max")
    asked = (host.folder / "asked").read_text()
    for words in (
        "--engine max",
        "--device gpu",
        "--gpu-memory-mib 24564,24564",
        "--host-memory-mib 65536",
        "--model-file llama-3.1-8b-instruct-bf16",
        "--model-name llama-3.1-8b-instruct",
    ):
        assert words in asked, asked
    assert "two engines" in said
    assert host.settings()["MODEL_SOURCE"] == "llama-3.1-8b-instruct-bf16"
    assert host.settings()["MAX_FLAGS"] == "--devices gpu"
    assert host.settings()["LLAMA_CPP_FLAGS"] == "unused"


def test_a_plan_that_cannot_be_made_changes_nothing(host: Host) -> None:
    host.env_file.write_text("MINE=1\n")
    host.docker(run="echo 'error: the model does not fit' >&2; exit 1")
    assert "There is no plan for this machine" in host.refuses("write_plan", DEVICE="cpu")
    assert host.env_file.read_text() == "MINE=1\n"


def test_a_model_has_the_name_of_its_source(host: Host) -> None:
    assert host.accepts("model_name") == "llama-3.3-8b-instruct"
    assert host.accepts("model_name", MODEL_SOURCE="owner/repo:Good-Model.gguf") == "good-model"
    assert host.accepts("model_name", MODEL_FILE="mine/Mine.gguf") == "mine"
    assert host.accepts("model_name", MODEL_NAME="house") == "house"


def test_images_that_are_missing_where_nothing_may_be_pulled(host: Host) -> None:
    config = "services:\n  redis:\n    image: redis:7\n"
    of_a_profile = "  locust:\n    image: locust:2\n    profiles:\n    - locust\n"
    host.docker(compose_config=f"printf '{config}{of_a_profile}'")
    said = host.refuses("fetch_images", PULL="never")
    assert "these images are not here: redis:7." in said
    host.docker(compose_config="echo 'yaml: line 3' >&2; exit 1")
    assert "Docker Compose cannot read its files" in host.refuses("fetch_images")


def test_a_placeholder_keeps_no_verb_from_reading_the_compose_file(host: Host) -> None:
    host.docker(compose_down='echo "$ENGINE_SLOTS ${POSTGRES_PASSWORD:-none}"')
    host.env_file.write_text("POSTGRES_PASSWORD=kept-kept-1234\n")
    assert host.accepts("compose_unplanned down --volumes") == "unset none\n"


def test_a_backup_that_was_changed_is_not_restored(host: Host) -> None:
    backup = host.folder / "backups/one"
    backup.mkdir(parents=True)
    for name in ("database.dump", "objects.tar", "vectors.tar"):
        (backup / name).write_text(name + "\0" * 1024)
    host.accepts(
        "cd backups/one; { echo '# llm-serving-stack backup of today'; sha256sum *.*; } >MANIFEST"
    )
    host.docker(run="true")
    assert "is whole (today)" in host.accepts("verify_backup backups/one")
    (backup / "objects.tar").write_text("other")
    assert "is not what was written" in host.refuses("verify_backup backups/one")
    (backup / "MANIFEST").unlink()
    assert "is no whole backup" in host.refuses("verify_backup backups/one")
    assert "FROM does not say which" in host.refuses("verify_backup ''")


def test_a_backup_that_tar_cannot_read_is_not_restored(host: Host) -> None:
    backup = host.folder / "backups/one"
    backup.mkdir(parents=True)
    for name in ("database.dump", "objects.tar", "vectors.tar"):
        (backup / name).write_text(name + "\0" * 1024)
    host.accepts("cd backups/one; sha256sum *.* >MANIFEST")
    host.docker(run="read -r line; [[ $line != vectors* ]]")
    said = host.refuses("verify_backup backups/one")
    assert "backups/one/vectors.tar is no archive" in said
    assert "nothing was changed" in said
    (backup / "objects.tar").write_text("ends between two files")
    host.accepts("cd backups/one; sha256sum *.* >MANIFEST")
    host.docker(run="true")
    assert "backups/one/objects.tar is no archive" in host.refuses("verify_backup backups/one")


def test_a_restore_that_is_given_up_starts_what_it_stopped(host: Host) -> None:
    host.docker(
        ps="echo one-id", stop="echo $* >>log", start="echo $* >>log",
        inspect="echo volume", run="echo run >>log", exec="true",
    )  # fmt: skip
    stops = "stop_for_now gateway; stop_for_now redis; fail Disk. Free."
    assert host.call(f"trap abandon_restore EXIT; {stops}").code == 1
    log = (host.folder / "log").read_text()
    assert log == "stop gateway\nstop redis\nrun\nrun\nstart redis\nstart gateway\n"


def test_an_engine_that_the_plan_leaves_out_is_removed(host: Host) -> None:
    listed = r"printf '%s\trunning\tUp\t%s\n' llama-cpp one max-serve two locust three"
    host.docker(
        **{"ps_--all_--quiet": "echo watcher"},
        ps=listed,
        restart="echo $* >>log",
        compose_config=r"printf 'services:\n  max-serve:\n    image: max\n'",
        stop="echo $* >>log",
        rm="echo $* >>log",
    )
    said = host.accepts("remove_former_engines", COMPOSE_PROFILES="max")
    assert "llama-cpp is not in the plan any more" in said
    assert (host.folder / "log").read_text() == "stop one\nrm one\nrestart watcher\n"


def test_stop_ends_what_compose_leaves(host: Host) -> None:
    lines = r"printf '%s\t%s\tUp\t%s\n' locust running one redis exited two"
    host.docker(ps=lines, stop="echo $* >>log")
    host.accepts("stop_the_rest")
    assert (host.folder / "log").read_text() == "stop one\n"


@pytest.mark.parametrize(
    ("service", "verdict"), [("postgres", "broken"), ("bucket-init", "well"), ("locust", "well")]
)
def test_what_must_run_is_not_well_when_it_has_ended(
    host: Host, service: str, verdict: str
) -> None:
    said = host.accepts(f"verdict {service} exited 'Exited (0) 3 minutes ago'")
    assert said == f"{verdict}\n"


def test_the_stack_of_another_checkout_is_left_alone(host: Host, tmp_path: Path) -> None:
    host.docker(ps=f"echo {host.folder}")
    host.accepts("check_folder")
    host.docker(ps="echo /gone/for/long")
    host.accepts("check_folder")
    host.docker(ps=f"echo {tmp_path}")
    said = host.refuses("check_folder")
    assert f"was started from {tmp_path}" in said
    assert "COMPOSE_PROJECT_NAME=llm-serving-stack-2" in said


def test_compose_is_not_called_on_the_stack_of_another_checkout(host: Host, tmp_path: Path) -> None:
    host.docker(ps=f"echo {tmp_path}", compose_down="echo removed")
    assert f"was started from {tmp_path}" in host.refuses("compose_unplanned down")


def test_volumes_without_containers_may_be_those_of_others(host: Host) -> None:
    host.docker(volume_inspect="true")
    assert "perhaps another checkout's" in host.accepts("perhaps_of_others")
    host.docker(volume_inspect="true", ps="echo postgres")
    assert host.accepts("perhaps_of_others") == ""
    host.docker()
    assert host.accepts("perhaps_of_others") == ""


def test_two_verbs_do_not_run_at_once(host: Host) -> None:
    host.accepts("one_at_a_time start; one_at_a_time stop")  # a host without flock
    flock = shutil.which("flock")
    assert flock
    (host.programs / "flock").symlink_to(flock)
    said = host.refuses(
        "one_at_a_time backup; bash -c 'source scripts/stack/all.sh; one_at_a_time stop'"
    )
    assert "make backup is at work in this checkout." in said
    host.accepts("one_at_a_time stop")


def test_a_build_says_where_its_log_is(host: Host) -> None:
    host.docker(compose_build="echo 'no route to host'; exit 1")
    said = host.refuses("build_anew image")
    assert "cannot be built: no route to host" in said
    assert (host.folder / "logs/build.log").read_text() == "no route to host\n"


def test_a_first_chat_that_fails_says_what_health_says(host: Host) -> None:
    host.docker(ps="echo one-id", exec="if [[ $* == *read_health* || $* == *'problems_of'* ]]; then"
                " echo 'error: redis is away' >&2; exit 1; else echo no; echo 503; fi")  # fmt: skip
    said = host.call("first_chat")
    assert said.code == 1
    assert "error: redis is away" in said.output
    assert "answered with 503: no" in said.output


def test_what_would_lose_data_wants_to_be_confirmed(host: Host) -> None:
    asked = "confirm_or_fail 'This removes it.' 'make clean VOLUMES=yes'"
    assert "make clean VOLUMES=yes CONFIRM=yes" in host.refuses(asked)
    assert host.accepts(asked, CONFIRM="yes") == ""
