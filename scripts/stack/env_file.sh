# shellcheck shell=bash
# .env: secrets are made where they are missing; what stands there is never changed, only checked.

# Those that a part of the stack asks for before it lets anybody in.
SECRETS=(POSTGRES_PASSWORD REDIS_PASSWORD QDRANT_API_KEY S3_ACCESS_KEY S3_SECRET_KEY ENGINE_API_KEY GRAFANA_PASSWORD GRAFANA_POSTGRES_PASSWORD)
# What a start is told by make or the environment, and later ones shall know.
CHOICES=(DEVICE GPUS ENGINE ENGINE_URLS ENGINE_SLOTS ENGINE_CONTEXT_TOKENS MODEL_SOURCE MODEL_FILE MODEL_NAME API_PORT GRAFANA_PORT LOCUST_PORT BIND_ADDRESS
    EMBEDDINGS_SOURCE EMBEDDINGS_FILE EMBEDDINGS_URL EMBEDDINGS_NAME TOKENIZER_FOLDER COMPOSE_EXTRA_FILES COMPOSE_EXTRA_PROFILES
    COMPOSE_PROJECT_NAME)
# What is true of one engine alone.
OF_THE_ENGINE=(ENGINE_URLS ENGINE_SLOTS ENGINE_CONTEXT_TOKENS)
FEWEST_CHARACTERS=12

check_env_file() {
    local name
    [[ -f $ENV_FILE ]] || { ok "no .env yet: it is written, with generated secrets"; return; }
    [[ -r $ENV_FILE && -w $ENV_FILE ]] ||
        fail ".env cannot be read and written by this user." "sudo chown $(id -un) .env"
    check_dollars
    check_names
    for name in "${SECRETS[@]}"; do check_secret "$name"; done
    ok ".env"
}

# Compose 2 takes $NAME for a variable, Compose 1 and `make local` do not; between single quotes it is itself for all.
check_dollars() {
    local names
    # shellcheck disable=SC2016
    names=$(lines_of_user | sed -nE 's/^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=[^'"'"'#]*\$.*/\2/p' | paste -sd ' ')
    [[ -z $names ]] || fail "$names in .env: a dollar sign begins the name of a variable there." "Put the value between single quotes."
}

# check_secret NAME: where it is set at all. Its value is never shown.
check_secret() {
    is_set_by_user "$1" || [[ -v $1 ]] || return 0
    local value remedy="Give it a value of your own, or delete the line of .env: make start then makes one."
    value=$(setting "$1")
    [[ -n $value ]] || fail "$1 is empty." "$remedy"
    ! is_placeholder "$value" || fail "$1 is a placeholder that anybody would try first." "$remedy"
    ((${#value} >= FEWEST_CHARACTERS)) || fail "$1 is shorter than $FEWEST_CHARACTERS characters." "$remedy"
    [[ $value =~ ^[A-Za-z0-9._~-]+$ ]] ||
        fail "$1 holds characters that break the URLs and files it is written into." "Use letters and digits. $remedy"
}

# Made of the words of examples alone, or of very few characters.
is_placeholder() {
    local plain rest
    plain=$(tr '[:upper:]' '[:lower:]' <<<"$1" | tr -cd 'a-z0-9')
    [[ $(fold -w 1 <<<"$plain" | sort -u | wc -l) -ge 4 ]] || return 0
    rest=$(sed -E 's/change|me|this|your|my|secret|secure|password|passwd|pass|placeholder|example|default|minio|admin|root|user|postgres|redis|grafana|qdrant|stack|api|key|token|here|test|todo|[0-9]//g' <<<"$plain")
    [[ -z $rest ]]
}

# A secret of 32 letters and digits: 190 bits.
new_secret() {
    local secret=''
    while ((${#secret} < 32)); do secret+=$(head -c 64 /dev/urandom | base64 -w 0 | tr -dc 'A-Za-z0-9'); done
    printf '%s' "${secret:0:32}"
}

# Containers read these as users of their own; a umask such as 027 or 077 closed them when git wrote them.
let_containers_read() {
    chmod -R a+rX configs init-scripts load_tests monitoring download_model.sh ||
        fail "Containers could not read their configuration: this user does not own the folders above." "sudo chown -R $(id -un) $PWD"
}

write_env_file() {
    local name
    mkdir -p models   # whoever owns it is who downloads into it, whoever runs this
    refuse_new_secrets_for_old_data
    if [[ ! -f $ENV_FILE ]]; then
        say "# Written by make start, and yours: what you change stays. .env.example explains each name. Keep a copy of it." |
            replace_env_file
    fi
    chmod 600 "$(readlink -f "$ENV_FILE")"
    forget_former_engine
    for name in "${CHOICES[@]}"; do remember_choice "$name"; done
    for name in "${SECRETS[@]}"; do
        [[ -n $(setting "$name") ]] || remember "$name" "$(new_secret)"
    done
    is_set_by_user STACK_UID || remember STACK_UID "$(stat -c %u models)"
    is_set_by_user STACK_GID || remember STACK_GID "$(stat -c %g models)"
    ok ".env has its secrets, and only this user may read it"
}

# What the environment says differently from the user's lines of .env is written down: what the plan says may go with it.
remember_choice() {
    local former=''
    [[ -v $1 ]] || return 0
    if is_set_by_user "$1"; then former=$(file_value "$1"); fi
    [[ ${!1} != "$former" ]] || return 0
    [[ ${!1} =~ ^[A-Za-z0-9._~:/,@%+=-]*$ ]] ||
        fail "$1=${!1} holds characters that .env cannot carry as they are." "Write the line into .env by hand, quoted."
    remember "$1" "${!1}"
    ok "kept in .env: $1=${!1}"
}

# Whether this start is told to take another engine than .env has; of two that are elsewhere the addresses may be the same.
is_engine_changed() {
    local former
    former=$(file_value ENGINE)
    [[ -v ENGINE && ${ENGINE:-llama-cpp} != "${former:-llama-cpp}" ]] || return 1
    is_started_here "${ENGINE:-llama-cpp}" || is_started_here "${former:-llama-cpp}"
}

# For verbs that keep no choices in .env.
refuse_other_engine() {
    ! is_engine_changed || fail "ENGINE=$ENGINE is not the engine of .env, and only a start changes it." "make start ENGINE=$ENGINE"
}

# setting_of_engine NAME: not what .env has of another engine, which may be a plan's.
setting_of_engine() { if [[ -v $1 ]] || ! is_engine_changed; then setting "$1"; fi; }

# The addresses of an engine of before would stand over the plan of the new one.
forget_former_engine() {
    local name
    is_engine_changed || return 0
    for name in "${OF_THE_ENGINE[@]}"; do
        if [[ -v $name ]] || ! is_set_by_user "$name"; then continue; fi
        warn "ENGINE is $ENGINE now, so that $name=$(file_value "$name") of the engine before is taken out of .env"
        forget "$name"
    done
}

# PostgreSQL keeps the password that it was made with; a new one would lock the gateway out.
refuse_new_secrets_for_old_data() {
    local volume
    volume=$(project_name)_postgres-data
    [[ -z $(setting POSTGRES_PASSWORD) ]] || return 0
    ! docker volume inspect "$volume" >/dev/null 2>&1 ||
        fail "The data of an earlier installation, perhaps another checkout's, is here (volume $volume), but .env does not have its POSTGRES_PASSWORD." \
            "Put that .env back, or use another name (make start COMPOSE_PROJECT_NAME=...); or, if nobody wants it, remove the data for good: make clean VOLUMES=yes CONFIRM=yes"
}
