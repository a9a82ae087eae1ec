# shellcheck shell=bash
# Which model, and fetching it: once, verified, by download_model.sh in a container.

is_started_here() { [[ $1 =~ ^(llama-cpp|max)$ ]]; }

is_engine_elsewhere() { ! is_started_here "$(setting ENGINE llama-cpp)"; }

# What the user set, in the environment or in .env outside of the plan.
setting_of_user() {
    if [[ -v $1 ]] || is_set_by_user "$1"; then setting "$1"; fi
}

# A name of models/models.lock, or owner/repo:file. MAX reads no GGUF on a GPU, so that it has weights of bf16.
model_source() {
    local source
    source=$(setting_of_user MODEL_SOURCE)
    if [[ -z $source && $(setting ENGINE) == max ]]; then source=llama-3.1-8b-instruct-bf16; fi
    printf '%s' "${source:-llama-3.3-8b-instruct}"
}

# Its file, or folder, in models/.
model_file() {
    local file
    file=$(setting_of_user MODEL_FILE)
    [[ -n $file ]] || file=$(./download_model.sh --print-file "$(model_source)") ||
        fail "MODEL_SOURCE=$(model_source) names no model." "./download_model.sh --list shows names; owner/repo:file is the other form."
    printf '%s' "$file"
}

# What clients call it: what the user says, otherwise the name of its source or of its file.
model_name() {
    local name
    name=$(setting_of_user MODEL_NAME)
    if [[ -z $name ]]; then
        name=$(model_source)
        [[ -z $(setting_of_user MODEL_FILE) && $name != */* ]] || name=$(basename "$(model_file)" .gguf)
        name=$(tr '[:upper:]' '[:lower:]' <<<"${name%%-bf16*}")
    fi
    printf '%s' "$name"
}

embeddings_source() {
    local source
    source=$(setting_of_user EMBEDDINGS_SOURCE)
    printf '%s' "${source:-nomic-embed-text-v1.5}"
}

# Whether the stack runs an engine for embeddings itself. An EMBEDDINGS_URL names another one, or none when it is empty.
has_own_embeddings() {
    [[ $(embeddings_source) != none && ! -v EMBEDDINGS_URL ]] && ! is_set_by_user EMBEDDINGS_URL
}

embeddings_file() {
    local file
    file=$(setting_of_user EMBEDDINGS_FILE)
    [[ -n $file ]] || file=$(./download_model.sh --print-file "$(embeddings_source)") ||
        fail "EMBEDDINGS_SOURCE=$(embeddings_source) names no model." "./download_model.sh --list shows names; none is one as well."
    printf '%s' "$file"
}

# What clients call it.
embeddings_name() {
    local name
    name=$(setting_of_user EMBEDDINGS_NAME)
    if [[ -z $name ]]; then
        name=$(embeddings_source)
        [[ -z $(setting_of_user EMBEDDINGS_FILE) && $name != */* ]] || name=$(basename "$(embeddings_file)" .gguf)
        name=${name,,}
    fi
    printf '%s' "$name"
}

fetch_models() {
    mkdir -p models
    compose run --rm model-init ||
        fail "The models are not complete; the lines above say why." "Run make start again: a download goes on where it ended."
    ok "the models are here and verified"
}
