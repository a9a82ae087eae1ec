#!/usr/bin/env bash
# Applies .env and configs/ to what runs: gateways one by one, so that no request fails; other services only where
# their definition changed. SERVICE=name restarts that one alone.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
trap on_interrupt INT
one_at_a_time restart
check_folder >/dev/null
require_env_file
refuse_other_engine
let_containers_read
if [[ -n ${SERVICE:-} && $SERVICE != api-server ]]; then
    compose restart "$SERVICE" || fail "$SERVICE could not be restarted." "make ps lists the services."
    exit
fi
check_choices
check_device
write_plan
check_gateway_settings
refresh_others
roll_gateways
start_services
