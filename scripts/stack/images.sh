# shellcheck shell=bash
# The images: the gateway's is built here, the others are pulled; what is here already is left alone.
# PULL=never is for hosts without a registry: all must be here (docker load).

# image_named VARIABLE: what it is set to, or the default in the compose files.
image_named() {
    local default
    # shellcheck disable=SC2016
    default=$(sed -nE 's/^.*\$\{'"$1"':-([^}]+)\}.*$/\1/p' docker-compose*.yaml | head -n 1)
    setting "$1" "$default"
}

BUILD_LOG=logs/build.log

is_here() { docker image inspect "$1" >/dev/null 2>&1; }

gateway_image() { image_named API_SERVER_IMAGE; }

# Built from this checkout while no gateway runs; a running one is replaced by `make upgrade`.
build_gateway_image() {
    local image
    image=$(gateway_image)
    if is_here "$image" && [[ $(setting PULL) == never || -n $(running api-server) ]]; then
        ok "$image is here"
    elif [[ -n $(setting API_SERVER_IMAGE) && $(setting PULL) != never ]]; then
        is_here "$image" || pull "$image"
        ok "$image is here"
    else
        build_anew "$image"
    fi
}

# For an upgrade: what this checkout, or the variable, names now.
renew_gateway_image() {
    local image
    image=$(gateway_image)
    if [[ -z $(setting API_SERVER_IMAGE) || $(setting PULL) == never ]]; then build_anew "$image"; else pull "$image"; fi
}

build_anew() {
    say "  building $1 (minutes the first time, seconds later)"
    mkdir -p "$(dirname "$BUILD_LOG")"
    compose_unplanned build api-server >"$BUILD_LOG" 2>&1 ||
        fail "The image $1 cannot be built: $(grep -v '^[[:space:]]*$' "$BUILD_LOG" | tail -n 1 | cut -c 1-300)" \
            "All of it: $BUILD_LOG. Packages come over the network; run this again when it is there."
    ok "$1 is built"
}

# All images of the services that this plan starts.
fetch_images() {
    local image services
    local -a missing=()
    services=$(services_or_fail) || exit 1
    while read -r image; do
        is_here "$image" || missing+=("$image")
    done < <(cut -d ' ' -f 2 <<<"$services" | sort -u)
    if ((${#missing[@]} > 0)) && [[ $(setting PULL) == never ]]; then
        fail "PULL=never, and these images are not here: ${missing[*]}." "Bring them (docker save, docker load), or leave PULL out."
    fi
    for image in "${missing[@]}"; do pull "$image"; done
    ok "all images are here"
}

pull() {
    say "  pulling $1"
    docker pull "$1" ||
        fail "The image $1 cannot be pulled." "See that this host reaches its registry; or take another one (its variable stands in .env.example)."
}

# Where upgrade keeps the image that ran before it.
previous_image() {
    local image
    image=$(gateway_image)
    image=${image%@*}
    printf '%s' "${image%:*}:previous"
}

keep_previous_image() { docker tag "$(docker inspect --format '{{.Image}}' "$(running api-server | head -n 1)")" "$(previous_image)"; }
