# shellcheck shell=bash
# Compose, v2 or v1, and what it calls this stack.
OLDEST_COMPOSE=1.29
COMPOSE_COMMAND=()

compose() {
    if [[ ${#COMPOSE_COMMAND[@]} -eq 0 ]]; then choose_compose; fi
    check_folder >/dev/null
    "${COMPOSE_COMMAND[@]}" "$@"
}

# COMPOSE names the command; otherwise the plugin of Docker, then the program of its own.
choose_compose() {
    local candidate version found=''
    local -a words candidates=("docker compose" docker-compose)
    [[ -z ${COMPOSE:-} ]] || candidates=("$COMPOSE")
    for candidate in "${candidates[@]}"; do
        read -ra words <<<"$candidate"
        version=$("${words[@]}" version --short 2>/dev/null) || continue
        if at_least "${version#v}" "$OLDEST_COMPOSE"; then
            COMPOSE_COMMAND=("${words[@]}")
            return
        fi
        found="$found $candidate $version"
    done
    local install="Install it (Debian: docker-compose, Ubuntu: docker-compose-v2, Docker's packages: docker-compose-plugin)."
    [[ -z $found ]] || fail "Docker Compose is too old:$found; v2 or $OLDEST_COMPOSE is needed." "$install"
    [[ -z ${COMPOSE:-} ]] || fail "COMPOSE=$COMPOSE is no Docker Compose that runs." "Leave it out, or name one that does."
    fail "Docker Compose is not installed." "$install"
}

compose_version() { "${COMPOSE_COMMAND[@]}" version --short; }

at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# Compose as long as .env does not say everything: what it asks for and nobody has set is a word without meaning.
compose_unplanned() (
    for name in $(required_variables); do
        [[ -n $(setting "$name") ]] || export "$name=unset"
    done
    compose "$@"
)

required_variables() {
    # shellcheck disable=SC2016
    grep -ohE '\$\{[A-Z0-9_]+:\?' docker-compose*.yaml | sed 's/^..//; s/:?$//' | sort -u
}

# The name that Compose gives this stack: COMPOSE_PROJECT_NAME, or that of the folder.
project_name() {
    local name
    name=$(setting COMPOSE_PROJECT_NAME "$(basename "$PWD")")
    name=$(tr '[:upper:]' '[:lower:]' <<<"$name" | tr -cd 'a-z0-9_-')
    printf '%s' "${name##[_-]}"
}

# services_or_fail: what follows, with a sentence where Compose cannot read its files.
services_or_fail() {
    active_services || fail "Docker Compose cannot read its files; the lines above say why." "Put right what they name (.env, COMPOSE_FILE), then run this again."
}

# active_services: `SERVICE IMAGE` a line. v1 prints those of inactive profiles too, so that they are left out here.
active_services() {
    compose config | awk -v active="$(setting COMPOSE_PROFILES)" '
        function tell() { if (name != "" && (!limited || wanted)) print name, image }
        BEGIN { count = split(active, each, ","); for (i = 1; i <= count; i++) is_active[each[i]] = 1 }
        /^[a-z-]+:/ { tell(); name = ""; inside = ($1 == "services:"); next }
        inside && /^  [A-Za-z0-9_.-]+:/ { tell(); name = $1; sub(":", "", name); image = ""; limited = wanted = profiles = 0; next }
        /^    [a-z_]+:/ { profiles = ($1 == "profiles:"); if (profiles) limited = 1; if ($1 == "image:") image = $2 }
        profiles && /^    *- / { gsub("\"", "", $2); if ($2 in is_active) wanted = 1 }
        END { tell() }'
}
