# shellcheck shell=bash
# Replaces the gateways one by one: a new one, healthy and known to the front, before an old one is asked to end.
# No request fails of it. Their number stays.
LONGEST_GATEWAY_START_SECONDS=180
LONGEST_FRONT_SECONDS=30

roll_gateways() {
    local count id
    local -a old
    mapfile -t old < <(running api-server)
    count=${#old[@]}
    ((count > 0)) || fail "No gateway runs." "make start"
    for id in "${old[@]}"; do
        replace_gateway "$id" "$count"
    done
}

# replace_gateway ID COUNT
replace_gateway() {
    local new
    new=$(add_gateway "$2")
    if ! wait_for_health "$new" "$LONGEST_GATEWAY_START_SECONDS" || ! wait_for_front $(($2 + 1)); then
        printf '  it last said: %s\n' "$(last_words "$new")" >&2
        docker rm --force "$new" >/dev/null
        fail "The new gateway does not become healthy; the old ones go on serving." "$(way_back)"
    fi
    end_gateway "$1"
    wait_for_front "$2" || warn "the front has not noticed within $LONGEST_FRONT_SECONDS s that an old gateway is gone"
    ok "gateway ${1:0:12} is replaced by ${new:0:12}"
}

# add_gateway COUNT: one more than COUNT; prints its id. (Not with --no-deps: to Compose that is another definition,
# and the next `up` would recreate the container.)
add_gateway() {
    local before id
    before=$(containers api-server)
    compose up --detach --no-recreate --scale "api-server=$(($1 + 1))" api-server >&2 ||
        fail "No further gateway can be started; the old ones go on serving." "$(way_back)"
    while read -r id; do
        [[ $before == *"$id"* ]] || printf '%s\n' "$id"
    done < <(containers api-server)
}

end_gateway() {
    docker stop "$1" >/dev/null   # waits for the stop_grace_period that Compose gave it
    docker rm "$1" >/dev/null
}

# wait_for_front COUNT: until exactly so many gateways are up by its own figures.
wait_for_front() {
    local end=$((SECONDS + LONGEST_FRONT_SECONDS))
    [[ -n $(running front) ]] || return 0
    while ((SECONDS < end)); do
        [[ $(gateways_of_front) != "$1" ]] || return 0
        sleep 0.5
    done
    return 1
}

gateways_of_front() {
    exec_in front wget -q -O - http://127.0.0.1:8405/metrics </dev/null 2>/dev/null |
        grep -cE '^haproxy_server_status\{proxy="gateways",server="[^"]+",state="UP"\} 1' || true
}

way_back() {
    local image previous
    image=$(gateway_image)
    previous=$(previous_image)
    if is_here "$previous"; then
        printf 'Go back: git checkout what was there before, docker tag %s %s, then make restart.' "$previous" "$image"
    else
        printf 'See make doctor, and make logs SERVICE=api-server.'
    fi
}

# Everything but the gateways, and the front, which would take them along: recreated where its definition changed.
refresh_others() {
    local services
    local -a others
    services=$(services_or_fail) || exit 1
    mapfile -t others < <(cut -d ' ' -f 1 <<<"$services" | grep -vxE 'api-server|front')
    compose up --detach "${others[@]}" || fail_with_broken "Not all services could be started."
}
