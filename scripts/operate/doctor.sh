#!/usr/bin/env bash
# Checks this machine as `make start` does and, where the stack runs, each part of it. Changes nothing.
# Ends with a count of problems, and with 1 if there are any.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh

headline "This machine"
check_docker >/dev/null   # nothing else can be asked without it
choose_compose
each_check try

if [[ -n $(states) ]]; then
    headline "The stack"
    try check_services
    try check_gateway_settings
    try check_gpu_is_used
    try check_api
    try first_chat
    try check_watchers
    try check_disk_left
else
    headline "The stack does not run: make start"
fi

# shellcheck disable=SC2153
headline "$PROBLEMS problems"
((PROBLEMS == 0))
