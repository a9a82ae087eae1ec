# shellcheck shell=bash
# Looks after a stack that runs. Each question is a function that ends with `fail` where the answer is bad.

# A question in a shell of its own, so that a bad answer does not keep the others from being asked.
try() { ("$@") || PROBLEMS=$((PROBLEMS + 1)); }
PROBLEMS=0

check_services() {
    local service state status id broken=0
    while IFS=$'\t' read -r service state status id; do
        case $(verdict "$service" "$state" "$status") in
            well) ok "$service: $status" ;;
            *)
                if [[ $status == *"health: starting"* ]]; then
                    warn "$service still starts: $status"
                    continue
                fi
                broken=$((broken + 1))
                printf 'error: %s: %s. It last said: %s\n' "$service" "$status" "$(last_words "$id")" >&2 ;;
        esac
    done < <(states)
    ((broken == 0)) || fail "$broken services are not well." "make logs SERVICE=... tells more; make start starts what does not run."
    check_all_there
}

# What the plan names and has no container at all.
check_all_there() {
    local service services missing=''
    services=$(services_or_fail) || exit 1
    while read -r service _; do
        [[ -n $(containers "$service") ]] || missing+=" $service"
    done <<<"$services"
    [[ -z $missing ]] || fail "These services have no container:$missing." "make start"
}

# An engine that lost its GPU goes on with the CPU and says nothing.
check_gpu_is_used() {
    local engine services id used
    [[ $(device) == gpu ]] || return 0
    services=$(services_or_fail) || exit 1
    while read -r engine _; do
        [[ $engine == llama-cpp* || $engine == max-serve* ]] || continue
        id=$(running "$engine" | head -n 1)
        [[ -n $id ]] || continue
        used=$(gpu_memory_of "$id")
        ((${used:-0} >= 500)) ||
            fail "$engine does not use the GPU (${used:-0} MiB there)." \
                "docker restart ${id:0:12} gives it back after a systemctl daemon-reload; otherwise make logs SERVICE=$engine"
        ok "$engine holds $used MiB of the GPU"
    done <<<"$services"
}

# gpu_memory_of ID: MiB, by the processes of the container that nvidia-smi sees; where it sees none because the
# container counts processes differently, what is in use on the GPUs that the container has.
gpu_memory_of() {
    local used pids
    pids=$(docker top "$1" -eo pid | tail -n +2 | tr -d ' ' | paste -sd '|')
    used=$(nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null |
        tr -d ' ' | grep -E "^($pids)," | cut -d , -f 2 | paste -sd +) || used=''
    [[ -n $used ]] || used=$(docker exec "$1" nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits </dev/null | tr -d ' ' | paste -sd +)
    [[ ! $used =~ ^[0-9]+(\+[0-9]+)*$ ]] || echo $((used))
}

check_api() {
    local answer status key
    key=$(setting STACK_API_KEY)
    answer=$(ask "$key" GET /health/ready)
    status=$(tail -n 1 <<<"$answer")
    if [[ $status == 200 ]]; then
        ok "the API is ready"
    else
        printf 'error: The API is not ready (%s): %s\n' "$status" "$(head -n 1 <<<"$answer" | cut -c 1-300)" >&2
        [[ $status == 503 ]] || fail "Nothing more can be asked of it." "make logs SERVICE=front, make logs SERVICE=api-server"
    fi
    tell_health ||
        fail "The gateway's /health does not say what it should." "make restart, if .env was changed; make logs SERVICE=api-server"
}

# What only containers reach, asked from a gateway.
check_watchers() {
    exec_in api-server python3 -c "$(<scripts/stack/watchers.py)" <<<"$(setting GRAFANA_PASSWORD)" ||
        fail "What watches the stack is not well; the lines above say where." "make logs SERVICE=prometheus, make logs SERVICE=grafana"
}

check_disk_left() {
    local free root
    root=$(docker info --format '{{.DockerRootDir}}')
    [[ -d $root ]] || root=/
    read -r free _ < <(free_mib "$root")
    ((free >= 2048)) || fail "The disk of $root has $free MiB left." "Free some: docker system df shows what Docker keeps, make backup what to keep."
    ok "$free MiB of disk left at $root"
}
