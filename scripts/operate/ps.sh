#!/usr/bin/env bash
# The containers of the stack and how they are.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
compose_unplanned ps
