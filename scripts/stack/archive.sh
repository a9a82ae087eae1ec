# shellcheck shell=bash
# What a backup is made of: a dump of PostgreSQL, the volumes of objects and vectors, and a MANIFEST that
# `sha256sum --check` reads; its comments say which versions wrote them.
PARTS=(database.dump objects.tar vectors.tar)
MANIFEST=MANIFEST

# in_postgres COMMAND: in its container, as its superuser; standard input is passed on.
in_postgres() { exec_in postgres sh -c "PGPASSWORD=\$POSTGRES_PASSWORD PGHOST=127.0.0.1 PGUSER=stack $1"; }

# data_volume PART
data_volume() {
    case $1 in
        objects.tar) volume_of minio /data ;;
        vectors.tar) volume_of qdrant /qdrant/storage ;;
    esac
}

service_of() { if [[ $1 == objects.tar ]]; then echo minio; else echo qdrant; fi; }

# with_volume VOLUME MODE COMMAND: in a container that has nothing else, and no network.
with_volume() {
    docker run --rm --interactive --user 0 --network none --volume "$1:/volume:$2" --entrypoint sh "$(gateway_image)" -c "$3"
}

# pack PART FILE: its service stops for as long as that takes.
pack() {
    local service id volume
    service=$(service_of "$1")
    id=$(running "$service" | head -n 1)
    volume=$(data_volume "$1")
    [[ -n $volume ]] || fail "$service has no volume of data." "Start the stack first: make start"
    [[ -z $id ]] || stop_for_now "$id"
    with_volume "$volume" ro 'tar -C /volume --exclude ./.restoring -cf - .' </dev/null >"$2" || fail "The volume $volume cannot be read." "The lines above say why."
    start_again
    [[ -z $id ]] || wait_for_health "$id" 120 || fail "$service does not come back after its backup." "make doctor"
}
STOPPED=()   # what start_again starts

stop_for_now() {
    STOPPED=("$1" "${STOPPED[@]}")
    docker stop "$1" >/dev/null
}

# Whatever happens, what was stopped for a while runs again: the last one first.
start_again() {
    local id
    for id in "${STOPPED[@]}"; do docker start "$id" >/dev/null || warn "${id:0:12} does not start again: make start"; done
    STOPPED=()
}

# check_archive FILE: whether tar can read it to its end, where it has its 1024 zeros: tar says nothing of an archive that
# ends between two files. A sum that is right says neither.
check_archive() {
    { [[ $(tail -c 1024 "$1" | tr -d '\0' | wc -c) -eq 0 && $(stat -c %s "$1") -ge 1024 ]] &&
        docker run --rm --interactive --network none --entrypoint tar "$(gateway_image)" -tf - <"$1" >/dev/null; } ||
        fail "$1 is no archive that can be read to its end; its sum is right, so that it was written like this." "Take another backup; nothing was changed."
}

# unpack_beside PART FILE: into the volume, beside its content.
unpack_beside() {
    local volume
    volume=$(data_volume "$1")
    [[ -n $volume ]] || fail "$(service_of "$1") has no volume of data." "Start the stack first: make start; nothing was changed."
    # shellcheck disable=SC2016
    with_volume "$volume" rw 'set -e; new=/volume/.restoring
        rm -rf $new; mkdir $new; tar -C $new -xpf - --numeric-owner' <"$2" ||
        fail "The volume $volume cannot be written; nothing of what was stored is changed." "Free some disk (as much again as is stored), then run the same command again."
}

# forget_beside PART
forget_beside() { with_volume "$(data_volume "$1")" rw 'rm -rf /volume/.restoring' </dev/null || true; }

# exchange_volume PART: what was unpacked beside the content takes its place.
exchange_volume() {
    local volume
    volume=$(data_volume "$1")
    # shellcheck disable=SC2016
    with_volume "$volume" rw 'set -e; new=/volume/.restoring
        find /volume -mindepth 1 -maxdepth 1 ! -path $new -exec rm -rf {} +
        chown --reference=$new /volume; chmod --reference=$new /volume
        find $new -mindepth 1 -maxdepth 1 -exec mv {} /volume/ \;
        rmdir $new' </dev/null ||
        fail "The volume $volume cannot be written; the database is that of the backup already." "Put right what the lines above name, then run the same command again."
}

# write_manifest FOLDER
write_manifest() {
    local service id part
    {
        printf '# llm-serving-stack backup of %s\n' "$(date --utc '+%Y-%m-%d %H:%M:%S UTC')"
        for service in api-server postgres minio qdrant; do
            id=$(containers "$service" | head -n 1)
            printf '# %s %s\n' "$service" "$(docker inspect --format '{{.Config.Image}} {{.Image}}' "$id")"
        done
        printf '# schema %s\n' "$(schema_version)"
        for part in "${PARTS[@]}"; do printf '# size %s %s\n' "$part" "$(stat -c %s "$1/$part")"; done
        (cd "$1" && sha256sum "${PARTS[@]}")
    } >"$1/$MANIFEST"
}

schema_version() { in_postgres 'psql -d stack -Atc "SELECT max(version) FROM schema_migrations"' </dev/null 2>/dev/null || echo unknown; }

# manifest_says FOLDER WORD: what follows it in the comments.
manifest_says() { sed -n "s/^# $2 //p" "$1/$MANIFEST" | head -n 1; }
