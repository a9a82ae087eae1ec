# shellcheck shell=bash
# Asks the image's `plan` verb how the engine shall run on this machine, and keeps its answer in .env.

# plan ARGUMENT...: NAME=VALUE lines on standard output, what they mean for a person on standard error.
plan() {
    local -a arguments=(
        --engine "$(setting ENGINE llama-cpp)" --device "$(device)"
        --host-memory-mib "$(host_memory_mib)" --cores "$(nproc)"
        --models-dir /models --model-name "$(setting MODEL_NAME llama-3.3-8b-instruct)"
    )
    [[ $(device) != gpu ]] || arguments+=(--gpu-memory-mib "$(gpu_memories)")
    [[ -z $(setting_of_user MODEL_FILE) ]] || arguments+=(--model-file "$(setting_of_user MODEL_FILE)")
    docker run --rm --network none --read-only --user "$(id -u):$(id -g)" --env HOME=/tmp \
        --volume "$PWD/models:/models:ro" --volume "$PWD/configs:/app/configs:ro" "${PLAN_MOUNTS[@]}" \
        "$(gateway_image)" plan "${arguments[@]}" "$@"
}
PLAN_MOUNTS=()

# What the user set, in the environment or in .env outside of the plan.
setting_of_user() {
    if [[ -v $1 ]] || is_set_by_user "$1"; then setting "$1"; fi
}

write_plan() {
    local lines
    mkdir -p models
    PLAN_MOUNTS=(--volume "$PWD:/out")
    lines=$(plan --write-gpus /out/docker-compose.gpus.yaml) ||
        fail "There is no plan for this machine; the line above says why." "Change what it names, then run make start again."
    PLAN_MOUNTS=()
    put_plan "$lines"
    ok "the plan is in .env"
}

show_plan() { plan || fail "There is no plan for this machine; the line above says why." "Change what it names, then run make plan again."; }

# put_plan LINES: between the two marker lines at the end of .env, without what the user set.
put_plan() {
    local line name
    {
        lines_of_user
        printf '%s\n' "$PLAN_BEGINS"
        while IFS= read -r line; do
            name=${line%%=*}
            [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]] || continue
            if is_set_by_user "$name"; then
                printf '# %s: yours above\n' "$name"
            else
                printf '%s\n' "$line"
            fi
        done <<<"$1"
        printf '%s\n' "$PLAN_ENDS"
    } | replace_env_file
}
