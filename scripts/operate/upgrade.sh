#!/usr/bin/env bash
# The images that this checkout names: pulled and built, then as `make restart`. After `git pull`: make upgrade
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
trap on_interrupt INT
one_at_a_time upgrade
check_folder >/dev/null
require_env_file
refuse_other_engine
let_containers_read
[[ -n $(running api-server) ]] || fail "No gateway runs, so that there is nothing to upgrade." "make start"
keep_previous_image
headline "Images and models"
renew_gateway_image
note_whether_model_is_here
write_plan
check_gateway_settings
fetch_images
fetch_models
plan_again_if_guessed
headline "Services"
refresh_others
roll_gateways
start_services
make_key
first_chat
