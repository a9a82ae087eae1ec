# shellcheck shell=bash
# The app "default", whose key is STACK_API_KEY in .env: made once, and anew where nobody knows the key any more.
APP=default

make_key() {
    local key status answer
    key=$(setting STACK_API_KEY)
    if [[ -n $key ]]; then
        status=$(ask "$key" GET /v1/models | tail -n 1)
        case $status in
            200) ok "the key of the app \"$APP\" is in .env"; return ;;
            401) say "  STACK_API_KEY of .env is unknown here: a new one is made" ;;
            *) fail "The API answers $status when it is asked for its models." "Wait a moment and run make start again; make doctor says more." ;;
        esac
    fi
    answer=$(apps create) || answer=$(apps rotate) ||
        fail "The app \"$APP\" can neither be made nor get a new key." "docker compose exec api-server python -m api_server apps list says more."
    key=$(sed -nE 's/^ *"key": *"([^"]+)".*$/\1/p' <<<"$answer" | head -n 1)
    [[ -n $key ]] || fail "The new app has shown no key." "This is a mistake of ours: please report it."
    remember STACK_API_KEY "$key"
    wait_until_known "$key"
    ok "the app \"$APP\" is made, its key kept in .env"
}

apps() { exec_in api-server python -m api_server apps "$1" "$APP" --json </dev/null 2>/dev/null; }

# Each gateway hears of a new key within seconds.
wait_until_known() {
    local attempt
    for attempt in {1..20}; do
        [[ $(ask "$1" GET /v1/models | tail -n 1) != 200 ]] || return 0
        sleep 0.5
    done
    fail "The gateway does not know its new key after $((attempt / 2)) s." "make doctor says what it misses."
}
