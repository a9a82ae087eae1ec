#!/usr/bin/env bash
# Starts Locust's page, from which the stack is loaded.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
require_env_file
check_port "$(setting LOCUST_PORT 8089)" LOCUST_PORT
is_here "$(image_named LOCUST_IMAGE)" || pull "$(image_named LOCUST_IMAGE)"
compose --profile locust up --detach --no-deps locust || fail "Locust could not be started." "make logs SERVICE=locust"
address=$(front_address)
ok "Locust: ${address%:*}:$(setting LOCUST_PORT 8089)"
