#!/usr/bin/env bash
# Follows the logs of all services, or of one: make logs SERVICE=api-server
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
compose_unplanned logs --follow --tail 100 ${SERVICE:+"$SERVICE"}
