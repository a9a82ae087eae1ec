#!/usr/bin/env bash
# Shows how the engine would run on this machine; writes and starts nothing but the gateway's image, if that is missing.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
check_docker
check_choices
check_device
is_here "$(gateway_image)" || build_gateway_image
show_plan
