# shellcheck shell=bash
# The models in ./models: fetched and verified once, by download_model.sh in a container.
fetch_models() {
    mkdir -p models
    compose run --rm model-init ||
        fail "The models are not complete; the lines above say why." "Run make start again: a download goes on where it ended."
    ok "the models are here and verified"
}
