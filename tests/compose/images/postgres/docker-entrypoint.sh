#!/bin/bash
# What the official image's does, as far as docker-compose.yaml relies on it: at the first start a cluster
# with that user and database, set up by a server that listens on its socket only.
set -euo pipefail

set_up() {
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    initdb --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-host scram-sha-256 --auth-local trust
    printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    printf "listen_addresses = '*'\n" >> "$PGDATA/postgresql.conf"
    pg_ctl --wait --options "-c listen_addresses=''" start
    if [[ $POSTGRES_DB != postgres ]]; then
        createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
    fi
    pg_ctl --wait --mode fast stop
}

if [[ $1 == postgres && ! -s $PGDATA/PG_VERSION ]]; then
    : "${POSTGRES_PASSWORD:?is not set, and a database without a password is not made}"
    : "${POSTGRES_USER:=postgres}"
    : "${POSTGRES_DB:=$POSTGRES_USER}"
    set_up
fi
exec "$@"
