# shellcheck shell=bash
# Starts what is not running, keeps as many gateways as there are, and waits until each service is well.
LONGEST_START_SECONDS=1800   # an engine that reads 16 GB from a slow disk, and compiles

gateway_count() {
    local count
    count=$(containers api-server | wc -l)
    echo $((count > 0 ? count : 1))
}

start_services() {
    remove_former_engines
    restart_broken
    compose up --detach --scale "api-server=$(gateway_count)" || fail_with_broken "The services could not all be started."
    wait_until_well
}

# Engines that the plan does not name any more (another ENGINE, fewer GPUs, no embeddings) would keep their memory: to
# Compose a service of an inactive profile is no orphan. Prometheus would go on asking their addresses where Docker does
# not answer for a name that is gone.
remove_former_engines() {
    local service services id is_removed=no
    services=$(services_or_fail) || exit 1
    while IFS=$'\t' read -r service _ _ id; do
        [[ $service =~ ^(llama-cpp|max-serve|embeddings)(-[0-9]+)?$ ]] || continue
        ! grep -q "^$service " <<<"$services" || continue
        say "  $service is not in the plan any more: it is removed"
        docker stop "$id" >/dev/null
        docker rm "$id" >/dev/null
        is_removed=yes
    done < <(states)
    [[ $is_removed == yes ]] || return 0
    for id in $(running prometheus); do docker restart "$id" >/dev/null; done
}

# What is there and not well gets another try now: Docker alone waits longer after each crash, and Compose leaves a
# container that is unhealthy as it is.
restart_broken() {
    local service state status id
    while IFS=$'\t' read -r service state status id; do
        if [[ $state == restarting ]] || [[ $state == running && $(verdict "$service" "$state" "$status") == broken ]]; then
            say "  $service is not well: it is started again"
            docker restart "$id" >/dev/null
        fi
    done < <(states)
}

wait_until_well() {
    local service state status id end=$((SECONDS + LONGEST_START_SECONDS)) pending told=' '
    while ((SECONDS < end)); do
        pending=''
        while IFS=$'\t' read -r service state status id; do
            case $(verdict "$service" "$state" "$status") in
                well) [[ $told == *" $id "* ]] || { ok "$service"; told+="$id "; } ;;
                broken) fail_with_broken "$service does not run." ;;
                pending)
                    ! is_crashing "$id" || fail_with_broken "$service ends again and again."
                    pending+=" $service" ;;
            esac
        done < <(states)
        [[ -n $pending ]] || return 0
        sleep 1
    done
    fail "After $LONGEST_START_SECONDS s these are not well:$pending." "See make doctor, and make logs SERVICE=${pending##* }"
}

# fail_with_broken WHAT: with the last words of each service that is broken.
fail_with_broken() {
    local service state status id broken=''
    while IFS=$'\t' read -r service state status id; do
        if [[ $(verdict "$service" "$state" "$status") == broken || $state == restarting || $state == paused ]] || is_crashing "$id"; then
            broken+=${broken:+, }$service
            printf '  %s: %s. It last said: %s\n' "$service" "$status" "$(last_words "$id")" >&2
        fi
    done < <(states)
    fail "$1" "Read more: make logs${broken:+ SERVICE=${broken%%,*}}. Then make start goes on from here."
}
