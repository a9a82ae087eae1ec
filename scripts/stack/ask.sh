# shellcheck shell=bash
# Asks the API through the front: with the host's curl, or from inside a gateway where the host has none.

front_address() {
    local address
    address=$(setting BIND_ADDRESS 127.0.0.1)
    [[ $address != 0.0.0.0 ]] || address=127.0.0.1
    printf 'http://%s:%s' "$address" "$(setting API_PORT 8000)"
}

# ask KEY METHOD PATH [BODY]: prints the body, and the status on a last line (000: nobody answered).
# The key goes through standard input, where no list of processes shows it.
ask() {
    if command -v curl >/dev/null; then
        printf 'header = "Authorization: Bearer %s"\n' "$1" |
            curl --config - --silent --noproxy '*' --max-time 180 --request "$2" --header 'Content-Type: application/json' \
                --write-out '\n%{http_code}' ${4:+--data "$4"} "$(front_address)$3" || true
    else
        exec_in api-server python3 -c "$(<scripts/stack/ask.py)" "$2" "http://front:8000$3" "${4:-}" <<<"$1"
    fi
}

# What /health says of models, stores and slots; 1 where something is not well.
tell_health() {
    ask "$(setting STACK_API_KEY)" GET /health | head -n 1 | exec_in api-server python3 -c "$(<scripts/stack/read_health.py)" \
        "$(setting ENGINE_SLOTS)" "$(setting ENGINE_CONTEXT_TOKENS)"
}
