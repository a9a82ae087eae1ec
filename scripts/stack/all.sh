# shellcheck shell=bash
# Every step and every question about the stack, as functions. They work in the current folder, which is the
# checkout: init.sh and the verbs of scripts/operate/ source this file.
set -euo pipefail
umask 077   # what is written here may hold a secret

STACK_SCRIPTS=$(dirname "${BASH_SOURCE[0]}")
for part in terminal lock settings names compose containers checks gpu room env_file images plan models up ask key first_chat \
    banner rolling archive \
    restoring doctor; do
    # shellcheck source=/dev/null
    source "$STACK_SCRIPTS/$part.sh"
done
