# shellcheck shell=bash
# One verb at a time changes the stack of a checkout.
LOCK_FILE=.env.lock

# one_at_a_time VERB: until this shell and what it started have ended. Without flock, or where the file cannot be
# written or locked, it goes on unlocked.
one_at_a_time() {
    local holder code=0 lock
    command -v flock >/dev/null || return 0
    { : >>"$LOCK_FILE"; } 2>/dev/null || return 0
    exec {lock}<>"$LOCK_FILE"
    flock --nonblock "$lock" || code=$?
    if ((code == 1)); then
        holder=$(<"$LOCK_FILE")
        fail "make ${holder:-start} is at work in this checkout." "Wait for its end, or end it where it runs, then run this again."
    fi
    printf '%s\n' "$1" >"$LOCK_FILE"
}
