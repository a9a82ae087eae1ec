#!/usr/bin/env bash
# Brings the stack up on this host: `./init.sh`, or `make start`. Each step can be done again: what is done already
# stays as it is. DEVICE=auto|gpu|cpu, ENGINE=llama-cpp|max|external and others: .env.example.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
# shellcheck source=scripts/stack/all.sh
source scripts/stack/all.sh
trap on_interrupt INT
one_at_a_time start

headline "1. This machine (nothing is changed yet)"
each_check

headline "2. Settings and the gateway's image"
write_env_file
let_containers_read
build_gateway_image

headline "3. The plan: how the engine runs on this machine"
note_whether_model_is_here
write_plan
check_gateway_settings

headline "4. Images and models"
fetch_images
check_gpu_in_container
fetch_models
plan_again_if_guessed

headline "5. The services"
start_services

headline "6. The first chat"
make_key
first_chat
banner
