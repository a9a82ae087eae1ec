#!/usr/bin/env bash
# Removes containers and networks; with VOLUMES=yes CONFIRM=yes the data too. .env and models stay.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
one_at_a_time clean
check_folder >/dev/null
if [[ ${VOLUMES:-} == yes ]]; then
    confirm_or_fail "This removes apps, usage, jobs, threads, files, vector stores and figures of the stack $(project_name), for good$(perhaps_of_others)." \
        "make clean VOLUMES=yes"
    compose_unplanned --profile '*' down --volumes --remove-orphans
else
    compose_unplanned --profile '*' down --remove-orphans
    ok "data, models and .env are still here"
fi
