#!/usr/bin/env bash
# Puts a backup in the place of what is stored: make restore FROM=backups/DATE
# First it is verified, then PostgreSQL reads it beside the database in use; only when that is whole are they exchanged.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
trap on_interrupt INT
check_folder >/dev/null
require_env_file
from=${FROM:-}
verify_backup "$from"
confirm_or_fail "This puts $from in the place of all apps, usage, jobs, objects and vectors that are stored here." "make restore FROM=$from"
compose up --no-start || fail "The containers could not be made." "The lines above say why."
check_kind_of_objects "$from"
start_postgres

headline "Restoring $from"
load_database "$from/database.dump"
stop_users_of_data
exchange_database
ok "PostgreSQL"
for part in objects.tar vectors.tar; do
    unpack "$part" "$from/$part"
    ok "$part"
done
headline "Starting"
start_services
make_key
exec scripts/operate/doctor.sh
