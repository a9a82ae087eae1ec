# shellcheck shell=bash
# The steps of a restore.
BESIDE=stack_restored   # the database that a dump is read into

# verify_backup FOLDER
verify_backup() {
    local part
    [[ -n $1 ]] || fail "FROM does not say which backup." "make restore FROM=backups/DATE (ls backups)"
    [[ -f $1/$MANIFEST ]] || fail "$1 is no whole backup: it has no $MANIFEST." "Name a folder that make backup has written."
    for part in "${PARTS[@]}"; do
        grep -q "^[0-9a-f]\{64\}  $part\$" "$1/$MANIFEST" || fail "$1 is no whole backup: its $MANIFEST lacks $part." "Take another one; nothing was changed."
    done
    (cd "$1" && sha256sum --check --quiet --strict "$MANIFEST" >&2) ||
        fail "$1 is not what was written: the files above differ from $MANIFEST." "Take another backup; nothing was changed."
    for part in objects.tar vectors.tar; do check_archive "$1/$part"; done
    ok "$1 is whole ($(sed -n 's/^# llm-serving-stack backup of //p' "$1/$MANIFEST"))"
}

# MinIO and SeaweedFS do not read each other's files.
check_kind_of_objects() {
    local theirs ours
    theirs=$(manifest_says "$1" minio)
    ours=$(docker inspect --format '{{.Config.Image}}' "$(containers minio | head -n 1)")
    [[ $(kind_of "${theirs%% *}") == "$(kind_of "$ours")" ]] ||
        fail "The objects of $1 were written by ${theirs%% *}, and here runs $ours, which cannot read them." \
            "Start the stack with the same COMPOSE_FILE as then; nothing was changed."
}

# kind_of IMAGE: without its version.
kind_of() {
    local name=${1%@*}
    printf '%s' "${name%:*}"
}

start_postgres() {
    compose up --detach --no-deps postgres || fail "PostgreSQL could not be started." "make logs SERVICE=postgres"
    wait_for_health "$(containers postgres | head -n 1)" 120 || fail "PostgreSQL does not become healthy." "make logs SERVICE=postgres"
}

# Without its grants: the role that they are for may not be here yet. bucket-init gives them anew.
load_database() {
    in_postgres "dropdb --if-exists --force $BESIDE" </dev/null 2>/dev/null
    in_postgres "createdb $BESIDE" </dev/null
    in_postgres "pg_restore --exit-on-error --no-owner --no-acl -d $BESIDE" <"$1" ||
        fail "The dump cannot be read into PostgreSQL." "The lines above say why; what was stored is untouched."
}

# Answers that run come to their end first.
stop_users_of_data() {
    local service id
    for service in api-server bucket-init minio qdrant redis; do
        for id in $(running "$service"); do stop_for_now "$id"; done
    done
}

# Until the exchange began nothing of what was stored is changed: the services go on with it.
abandon_restore() {
    local part
    for part in objects.tar vectors.tar; do forget_beside "$part"; done
    in_postgres "dropdb --if-exists --force $BESIDE" </dev/null 2>/dev/null || true
    start_again
    say "  the services run again, with what they had"
}

exchange_database() {
    in_postgres 'psql -q -v ON_ERROR_STOP=1 -d postgres' <<END ||
DROP DATABASE IF EXISTS stack WITH (FORCE);
ALTER DATABASE $BESIDE RENAME TO stack;
END
        fail "The database could not be exchanged; the gateways and the stores are stopped." "The lines above say why. make start starts them; then try again."
}
