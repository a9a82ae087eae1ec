#!/usr/bin/env bash
# Ends all containers in order: running answers may come to their end. Data stays; `make start` goes on.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
one_at_a_time stop
check_folder >/dev/null
compose_unplanned stop
stop_the_rest
