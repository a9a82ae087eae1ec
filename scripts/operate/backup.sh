#!/usr/bin/env bash
# PostgreSQL (while it works), then objects and vectors (their services stop for seconds; chats go on).
# Not in it: .env (keep a copy: it has the secrets), models, Prometheus' figures, what Redis keeps.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
one_at_a_time backup
check_folder >/dev/null
require_env_file
to=${TO:-backups/$(date --utc +%Y-%m-%dT%H-%M-%SZ)}
to=${to%"${to##*[!/]}"}   # a slash at its end would put the part inside of the whole
[[ ! -e $to ]] || fail "$to is there already." "Name another folder: make backup TO=..."
[[ -n $(running postgres) ]] || fail "PostgreSQL does not run." "make start, then make backup"
partial=$to.partial
trap 'start_again; rm -rf "$partial"' EXIT
trap on_interrupt INT
rm -rf "$partial"
mkdir -p "$partial"

in_postgres 'pg_dump -d stack -Fc' </dev/null >"$partial/database.dump" ||
    fail "PostgreSQL could not be dumped." "The lines above say why (a full disk?); nothing was kept."
ok "PostgreSQL"
for part in objects.tar vectors.tar; do
    pack "$part" "$partial/$part"
    ok "$part"
done
write_manifest "$partial"
mv "$partial" "$to"
ok "$to: $(du -sh "$to" | cut -f 1). Restore it with: make restore FROM=$to"
