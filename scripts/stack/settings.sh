# shellcheck shell=bash
# Values of variables as Compose sees them: the environment, over .env. Nothing here executes .env.
ENV_FILE=.env
PLAN_BEGINS='# --- planned by make start, which writes these lines anew; a name that you set outside of them wins ---'
PLAN_ENDS='# --- end of the plan ---'

# setting NAME [DEFAULT]
setting() {
    local value
    if [[ -v $1 ]]; then value=${!1}; else value=$(file_value "$1"); fi
    printf '%s' "${value:-${2:-}}"
}

# file_value NAME: what .env says; of several lines the last one, of a quoted value what is between the quotes.
file_value() {
    [[ -f $ENV_FILE ]] || return 0
    local line value='' pattern="^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=[[:space:]]*(.*)$"
    while IFS= read -r line || [[ -n $line ]]; do
        [[ ${line%$'\r'} =~ $pattern ]] && value=$(unquoted "${BASH_REMATCH[2]}")
    done <"$ENV_FILE"
    printf '%s' "$value"
}

unquoted() {
    local text=$1
    case $text in
        \"*\"*) text=${text#\"} text=${text%%\"*} ;;
        \'*\'*) text=${text#\'} text=${text%%\'*} ;;
        \#*) text='' ;;
        *) text=${text%%[[:space:]]#*} text=${text%"${text##*[![:space:]]}"} ;;
    esac
    printf '%s' "$text"
}

# The lines of .env outside of the plan.
lines_of_user() {
    [[ -f $ENV_FILE ]] || return 0
    sed "/^${PLAN_BEGINS}\$/,/^${PLAN_ENDS}\$/d" "$ENV_FILE"
}

# names_of_user: one a line; those that the plan leaves alone.
names_of_user() {
    lines_of_user | sed -nE 's/^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=.*/\2/p'
}

is_set_by_user() { names_of_user | grep -qx -- "$1"; }

# The file of standard input takes the place of .env, in one step; not where it is the same.
replace_env_file() {
    local target partial
    target=$(readlink -f "$ENV_FILE")
    partial=$(mktemp "$target.XXXXXX")
    cat >"$partial"
    if cmp -s "$partial" "$target"; then rm "$partial"; else mv "$partial" "$target"; fi
    chmod 600 "$target"
}

# remember NAME VALUE: in the place where .env says it, otherwise as a line before the plan.
remember() {
    { lines_of_user | replace_or_append "$1" "$2"; planned_lines; } | replace_env_file
}

# forget NAME: its lines outside of the plan.
forget() {
    { lines_of_user | grep -vE "^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=" || true; planned_lines; } | replace_env_file
}

replace_or_append() {
    local line is_there=no pattern="^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*="
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line =~ $pattern ]]; then
            [[ $is_there == no ]] && printf '%s=%s\n' "$1" "$2"
            is_there=yes
        else
            printf '%s\n' "$line"
        fi
    done
    [[ $is_there == yes ]] || printf '%s=%s\n' "$1" "$2"
}

planned_lines() {
    [[ -f $ENV_FILE ]] || return 0
    sed -n "/^${PLAN_BEGINS}\$/,/^${PLAN_ENDS}\$/p" "$ENV_FILE"
}

require_env_file() { [[ -f $ENV_FILE ]] || fail "There is no .env, so that no stack was started from here." "make start"; }
