# shellcheck shell=bash
# One chat through the front: nothing else proves that a token can be served.
QUESTION='What is the capital of France?'

first_chat() {
    local answer status text
    answer=$(ask "$(setting STACK_API_KEY)" POST /v1/chat/completions "$(chat_body)")
    status=$(tail -n 1 <<<"$answer")
    text=$(content_of "$answer")
    if [[ $status != 200 || -z $text ]]; then
        tell_health || true
        fail "The first chat was answered with $status: $(head -n 1 <<<"$answer" | cut -c 1-300)" \
            "make doctor says which part is not well; make logs SERVICE=api-server tells more."
    fi
    ok "asked \"$QUESTION\", it answers: $text"
}

chat_body() {
    printf '{"model": "%s", "max_tokens": 32, "temperature": 0, "messages": [{"role": "user", "content": "%s"}]}' \
        "$(setting MODEL_NAME llama-3.3-8b-instruct)" "$QUESTION"
}

# The text of an answer, on one line.
content_of() { sed -nE 's/.*"content": *"(([^"\\]|\\.)*)".*/\1/p' <<<"$1" | head -n 1 | sed 's/\\n/ /g; s/\\"/"/g' | cut -c 1-200; }
