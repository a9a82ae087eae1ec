# shellcheck shell=bash
# The containers of this stack, asked from Docker itself: that is quicker than Compose and the same for v1 and v2.

# containers SERVICE [FILTER...]: ids, oldest first. Not those of `compose run`.
containers() {
    local service=$1 filter
    local -a filters=()
    for filter in "${@:2}"; do filters+=(--filter "$filter"); done
    docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$(project_name)" \
        --filter "label=com.docker.compose.service=$service" --filter "label=com.docker.compose.oneoff=False" \
        "${filters[@]}" | tac
}

running() { containers "$1" status=running; }

# exec_in SERVICE COMMAND...: in its first container that runs; standard input is passed on.
exec_in() {
    local id
    id=$(running "$1" | head -n 1)
    [[ -n $id ]] || fail "$1 does not run." "Start it: make start"
    docker exec -i "$id" "${@:2}"
}

# states: `SERVICE<tab>STATE<tab>STATUS<tab>ID` a line.
states() {
    docker ps --all --no-trunc --filter "label=com.docker.compose.project=$(project_name)" \
        --filter "label=com.docker.compose.oneoff=False" \
        --format '{{.Label "com.docker.compose.service"}}\t{{.State}}\t{{.Status}}\t{{.ID}}' | sort
}

# verdict SERVICE STATE STATUS: well, pending or broken. Only what does one thing, or is started by hand, may have ended.
verdict() {
    case "$2 $3" in
        running*unhealthy*) echo broken ;;
        running*"health: starting"*) echo pending ;;
        running*) echo well ;;
        exited*"(0)"*) if [[ $1 == *-init || $1 == locust ]]; then echo well; else echo broken; fi ;;
        exited* | dead*) echo broken ;;
        *) echo pending ;;   # created, restarting
    esac
}

# is_crashing ID: started again and again, which never shows as a state for long.
is_crashing() { [[ $(docker inspect --format '{{.RestartCount}}' "$1" 2>/dev/null || echo 0) -ge 4 ]]; }

# What Compose leaves running as its profile is none of the plan's: Locust, an engine of before.
stop_the_rest() {
    local state id
    while IFS=$'\t' read -r _ state _ id; do
        [[ $state != running ]] || docker stop "$id" >/dev/null
    done < <(states)
}

last_words() { docker logs --tail 1 "$1" 2>&1 | tr -d '\r' | cut -c 1-300; }

# volume_of SERVICE FOLDER: the name of the volume that is mounted there.
volume_of() {
    local id
    id=$(containers "$1" | head -n 1)
    [[ -n $id ]] || return 0
    docker inspect --format "{{range .Mounts}}{{if eq .Destination \"$2\"}}{{.Name}}{{end}}{{end}}" "$id"
}

# wait_for_health ID SECONDS: 0 when it is healthy, 1 when that takes too long or it ends.
wait_for_health() {
    local state end=$((SECONDS + $2))
    while ((SECONDS < end)); do
        state=$(docker inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$1") || return 1
        case $state in
            "running healthy" | "running ") return 0 ;;
            exited* | dead*) return 1 ;;
        esac
        sleep 0.5
    done
    return 1
}

# Volumes do not say which checkout made them; containers do.
perhaps_of_others() {
    [[ -n $(states) ]] || ! docker volume inspect "$(project_name)_postgres-data" >/dev/null 2>&1 ||
        printf ' (no container is left that tells whose they are: perhaps another checkout'"'"'s)'
}
