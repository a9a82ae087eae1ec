# shellcheck shell=bash
# What one wants to know when all is up.
banner() {
    local api key model
    api=$(front_address)
    # shellcheck disable=SC2016
    key='$STACK_API_KEY'   # of .env; the key itself is for a terminal, not for the log of a pipeline
    [[ ! -t 1 ]] || key=$(setting STACK_API_KEY)
    model=$(setting MODEL_NAME llama-3.3-8b-instruct)
    cat <<END

The stack is up.

  API        $api/v1   (OpenAI's; model $model)
  key        $key
  health     $api/health
  Grafana    ${api%:*}:$(setting GRAFANA_PORT 3000)   (user admin, GRAFANA_PASSWORD of .env)
  load       make locust, then ${api%:*}:$(setting LOCUST_PORT 8089)

  curl $api/v1/chat/completions -H "Authorization: Bearer $key" -H "Content-Type: application/json" \\
    -d '{"model": "$model", "messages": [{"role": "user", "content": "Hello!"}]}'

make doctor looks after it; make logs, make ps, make stop, make backup do what they say.
END
}
