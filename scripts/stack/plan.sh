# shellcheck shell=bash
# Asks the image's `plan` verb how the engine shall run on this machine, and keeps its answer in .env.

# plan ARGUMENT...: NAME=VALUE lines on standard output, what they mean for a person on standard error.
plan() {
    local engine each
    local -a arguments=(--device "$(device)" --host-memory-mib "$(host_memory_mib)" --cores "$(nproc)" --models-dir /models)
    engine=$(setting ENGINE llama-cpp)
    if is_engine_elsewhere; then engine=external; fi
    arguments+=(--engine "$engine" --model-name "$(model_name)" --model-file "$(model_file)")
    [[ $(device) != gpu ]] || arguments+=(--gpu-memory-mib "$(gpu_memories)")
    [[ $(device) != gpu || -z $(setting GPUS) ]] || arguments+=(--gpus "$(setting GPUS)")
    [[ -z $(setting TOKENIZER_FOLDER) ]] || arguments+=(--tokenizer-folder "$(setting TOKENIZER_FOLDER)")
    if has_own_embeddings; then arguments+=(--with-profile embeddings); fi
    for each in $(setting COMPOSE_EXTRA_FILES | tr ':' ' '); do arguments+=(--with-file "$each"); done
    for each in $(setting COMPOSE_EXTRA_PROFILES | tr ',' ' '); do arguments+=(--with-profile "$each"); done
    docker run --rm --network none --read-only --user "$(id -u):$(id -g)" --env HOME=/tmp \
        --volume "$PWD/models:/models:ro" --volume "$PWD/configs:/app/configs:ro" --volume "$PWD:/stack:${PLAN_MODE:-ro}" \
        "$(gateway_image)" plan "${arguments[@]}" --compose-file /stack/docker-compose.yaml "$@"
}

write_plan() {
    local lines model embeddings
    mkdir -p models
    model=$(planned_model) || exit 1
    embeddings=$(planned_embeddings) || exit 1
    lines=$(PLAN_MODE=rw plan --write-gpus /stack/docker-compose.gpus.yaml) ||
        fail "There is no plan for this machine; the line above says why." "Change what it names, then run make start again."
    put_plan "$model
$embeddings
$lines
$(planned_unused)"
    ok "the plan is in .env"
}

# The gateway checks what Compose will give it, in its own words, before anything is started with that.
check_gateway_settings() {
    local said is_well=yes
    said=$(compose run --rm --no-deps -T api-server check </dev/null 2>&1) || is_well=no
    said=$(grep -E '^(error|warning): |refuse' <<<"$said" || tail -n 1 <<<"$said")
    if [[ $is_well == no || $said == *"would refuse to start"* ]]; then
        fail "The gateway would not start with these settings: $(cut -c 1-500 <<<"$said" | paste -sd ' ')" \
            "Put right what it names, in .env or configs/stack.yaml, then run the same command again."
    fi
    ok "the gateway understands its settings"
}

# A model that was not here is planned for by guess; now that it is, by what it is.
plan_again_if_guessed() {
    if [[ $MODEL_WAS_HERE == no ]]; then write_plan; fi
}

# note_whether_model_is_here: before it is fetched.
note_whether_model_is_here() {
    MODEL_WAS_HERE=yes
    is_engine_elsewhere || [[ -e models/$(model_file) ]] || MODEL_WAS_HERE=no
}
MODEL_WAS_HERE=yes

planned_model() {
    is_engine_elsewhere || printf 'MODEL_SOURCE=%s\nMODEL_FILE=%s\n' "$(model_source)" "$(model_file)"
    printf 'MODEL_NAME=%s\n' "$(model_name)"
}

# Which file the service `embeddings` serves, or that there is no such service.
planned_embeddings() {
    local file
    if has_own_embeddings; then
        file=$(embeddings_file) || exit 1
        printf 'EMBEDDINGS_SOURCE=%s\nEMBEDDINGS_FILE=%s\n' "$(embeddings_source)" "$file"
        printf 'EMBEDDINGS_NAME=%s\n' "$(embeddings_name)"
    else
        printf 'EMBEDDINGS_SOURCE=none\nEMBEDDINGS_URL=\n'
    fi
}

# The compose file asks for the flags of its engine even where that does not start.
planned_unused() {
    [[ $(setting ENGINE llama-cpp) == llama-cpp ]] || printf 'LLAMA_CPP_FLAGS=unused\n'
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
