# shellcheck shell=bash
# What can be known of this machine before anything is changed on it. The GPU is in gpu.sh, disk, memory and ports in room.sh.
OLDEST_DOCKER=20.10

check_docker() {
    command -v docker >/dev/null ||
        fail "Docker is not installed." "Install it (Debian: sudo apt-get install docker.io docker-compose; Ubuntu: docker.io docker-compose-v2)."
    local answer
    if ! answer=$(timeout 20 docker version --format '{{.Server.Version}}' 2>&1); then
        case $answer in
            *"permission denied"*)
                fail "This user may not use Docker." "sudo usermod -aG docker $(id -un), then log in again; or run this as root." ;;
            *) fail "Docker's service does not answer." "Start it: sudo systemctl start docker (its log: journalctl -u docker)." ;;
        esac
    fi
    at_least "$answer" "$OLDEST_DOCKER" ||
        fail "Docker $answer is too old: $OLDEST_DOCKER is needed." "Upgrade it, then run this again."
    ok "Docker $answer, usable by this user"
}

check_compose() {
    choose_compose
    ok "Docker Compose $(compose_version) (${COMPOSE_COMMAND[*]})"
}

check_processor() {
    local cores
    cores=$(nproc)
    [[ $(uname -m) == x86_64 ]] ||
        fail "This is a $(uname -m) machine, and not every image of the stack exists for it." "Use an x86-64 host."
    if ((cores < 4)); then
        warn "$cores CPU cores: enough to try it; under load the gateway and the engine want 4 or more."
    else
        ok "$cores CPU cores"
    fi
}

# each_check [COMMAND...]: all checks without impact, in the order in which one makes the next one possible.
each_check() {
    local check
    for check in check_docker check_compose check_folder check_choices check_device check_processor check_memory check_disk \
        check_ports check_env_file check_compose_files; do
        "$@" "$check"
    done
}

# Compose knows a stack by the name of its folder alone: another checkout in a folder of that name would take over its
# containers and its data. Asked before each verb that changes something, and before each call of Compose.
check_folder() {
    local folder
    while read -r folder; do
        [[ ! -d $folder || $folder -ef . ]] ||
            fail "The stack $(project_name) was started from $folder, and this is $PWD." \
                "Give this one a name of its own: make start COMPOSE_PROJECT_NAME=$(project_name)-2 (and other ports); or work there."
    done < <(docker ps --all --filter "label=com.docker.compose.project=$(project_name)" \
        --format '{{.Label "com.docker.compose.project.working_dir"}}' | sort -u)
    ok "the name of the stack is $(project_name)"
}

check_choices() {
    local engine device name
    engine=$(setting ENGINE llama-cpp)
    device=$(setting DEVICE auto)
    [[ $engine =~ ^[a-z0-9-]+$ ]] ||
        fail "ENGINE=$engine is no engine." "It is llama-cpp (the default) or max, which are started here; or external, or another kind (docs/engines.md), elsewhere."
    [[ $device =~ ^(auto|gpu|cpu)$ ]] || fail "DEVICE=$device is no device." "It is auto (the default), gpu or cpu."
    if ! is_engine_elsewhere; then
        model_file >/dev/null
        return
    fi
    for name in "${OF_THE_ENGINE[@]}"; do
        [[ -n $(setting_of_engine "$name") ]] ||
            fail "ENGINE=$engine is elsewhere, and $name does not say what it is like." \
                "make start ENGINE=$engine ENGINE_URLS=http://10.0.0.5:8080 ENGINE_SLOTS=32 ENGINE_CONTEXT_TOKENS=8192"
    done
}
