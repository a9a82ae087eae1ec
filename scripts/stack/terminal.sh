# shellcheck shell=bash
# What is said, and how a step ends: one sentence of what is wrong, one of what to do, exit code 1.

say() { printf '%s\n' "$*"; }

ok() { printf '  ok    %s\n' "$*"; }

headline() { printf '\n%s\n' "$*"; }

warn() { printf '  note  %s\n' "$*" >&2; }

# fail WHAT_IS_WRONG WHAT_TO_DO
fail() {
    printf 'error: %s\n       %s\n' "$1" "$2" >&2
    exit 1
}

# confirm_or_fail WHAT_WOULD_BE_LOST COMMAND: only with CONFIRM=yes.
confirm_or_fail() {
    [[ ${CONFIRM:-} == yes ]] || fail "$1" "If that is what you want: $2 CONFIRM=yes"
}

on_interrupt() {
    # shellcheck disable=SC2016
    printf '\nStopped by you. What runs goes on running: `make start` carries on from here, `make stop` ends it.\n' >&2
    exit 130
}
