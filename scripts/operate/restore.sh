#!/usr/bin/env bash
# Puts a backup in the place of what is stored: make restore FROM=backups/DATE
# First it is verified, then read beside what is in use: PostgreSQL's dump into a second database, objects and vectors
# into a folder of their volumes. Only when all of it is there are they exchanged.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
trap on_interrupt INT
one_at_a_time restore
check_folder >/dev/null
require_env_file
from=${FROM:-}
verify_backup "$from"
confirm_or_fail "This puts $from in the place of all apps, usage, jobs, threads, files and vector stores that are kept here." "make restore FROM=$from"
compose up --no-start || fail "The containers could not be made." "The lines above say why."
check_kind_of_objects "$from"
start_postgres

headline "Restoring $from"
load_database "$from/database.dump"
trap abandon_restore EXIT
stop_users_of_data
for part in objects.tar vectors.tar; do unpack_beside "$part" "$from/$part"; done
trap - EXIT
exchange_database
ok "PostgreSQL"
for part in objects.tar vectors.tar; do
    exchange_volume "$part"
    ok "$part"
done
headline "Starting"
start_services
make_key
exec scripts/operate/doctor.sh
