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

embeddings_source() {
    local source
    source=$(setting_of_user EMBEDDINGS_SOURCE)
    printf '%s' "${source:-nomic-embed-text-v1.5}"
}

# Whether the stack runs an engine for embeddings itself. An EMBEDDINGS_URL names another one, or none when it is empty.
has_own_embeddings() {
    [[ $(embeddings_source) != none && ! -v EMBEDDINGS_URL ]] && ! is_set_by_user EMBEDDINGS_URL
}

# Of MODEL or EMBEDDINGS ($1): its file, or folder, in models/. $2: what else a source may be.
file_of() {
    local file source
    file=$(setting_of_user "$1_FILE")
    source=$("${1,,}_source")
    [[ -n $file ]] || file=$(./download_model.sh --print-file "$source") ||
        fail "$1_SOURCE=$source names no model." "./download_model.sh --list shows names; $2."
    printf '%s' "$file"
}

# What clients call it: what the user says, otherwise the name of its source or of its file.
name_of() {
    local name
    name=$(setting_of_user "$1_NAME")
    if [[ -z $name ]]; then
        name=$("${1,,}_source")
        [[ -z $(setting_of_user "$1_FILE") && $name != */* ]] || name=$(basename "$("${1,,}_file")" .gguf)
        name=${name%%-bf16*}
        name=${name,,}
    fi
    printf '%s' "$name"
}

model_file() { file_of MODEL "owner/repo:file is the other form"; }

model_name() { name_of MODEL; }

embeddings_file() { file_of EMBEDDINGS "none is one as well"; }

embeddings_name() { name_of EMBEDDINGS; }

fetch_models() {
    mkdir -p models
    compose run --rm model-init ||
        fail "The models are not complete; the lines above say why." "Run make start again: a download goes on where it ended."
    ok "the models are here and verified"
}
