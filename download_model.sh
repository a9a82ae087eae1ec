#!/usr/bin/env bash
# Fetches models into models/, and verifies them. It needs bash, curl, flock and coreutils: it runs on the host,
# and as the service model-init inside the image of llama.cpp. docs/models.md says what it promises.
set -euo pipefail
umask 022 # the engines run as other users, and only read

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MODELS_DIR=${MODELS_DIR:-$HERE/models}
LOCK=$MODELS_DIR/models.lock        # which content a name stands for
LOCAL_LOCK=$MODELS_DIR/models.lock.local # the same for what the lock does not pin: as first fetched here
VERIFIED=$MODELS_DIR/.verified      # of each file: size, time and sha256, so that a start need not hash it
DEFAULT_SOURCE=llama-3.3-8b-instruct
HUB=${HF_ENDPOINT:-https://huggingface.co}
HUB=${HUB%/}
TOKEN=${HF_TOKEN:-}
unset HF_TOKEN # no program that is started here inherits it
GIVEN_SHA256=${SHA256:-}

ATTEMPTS=${FETCH_ATTEMPTS:-8}           # in a row without a byte more
TOTAL_ATTEMPTS=100                      # however many bytes each brings
RESTARTS=3                              # from the first byte, where a server cannot resume
BACKOFF_SECONDS=${FETCH_BACKOFF_SECONDS:-2} # doubles up to a minute
STALL_SECONDS=${FETCH_STALL_SECONDS:-30}    # below 1 kB/s for so long
WAIT_SECONDS=${FETCH_WAIT_SECONDS:-7200}    # for another run that fetches
PROGRESS_SECONDS=${FETCH_PROGRESS_SECONDS:-10}

HEX='[0-9a-f]'
NAME_FORM='^[A-Za-z0-9][A-Za-z0-9._@:/+-]*$'
REPO_FORM='^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$'
# No part of a path begins with a dot or a dash: nothing leaves models/, nothing is taken for an option.
PATH_FORM='^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$'
SOURCE_FORM='^([^/@:]+/[^/@:]+)(@([A-Za-z0-9][A-Za-z0-9._-]*))?:(.+)$'

VERIFY='' SCRATCH='' CURL_PID=''

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

usage() {
    cat <<'TEXT'
usage: download_model.sh [--verify] [SOURCE]
       download_model.sh [--verify] --for-compose
       download_model.sh --print-file SOURCE | --list

SOURCE is a name of models/models.lock (default: llama-3.3-8b-instruct), owner/repo:file, owner/repo@revision:file,
or a file that is here already.
  --for-compose  fetch what MODEL_SOURCE, MODEL_FILE, EMBEDDINGS_SOURCE, EMBEDDINGS_FILE and ENGINE say
  --verify       hash also what was verified before
  --print-file   print which file (or folder) below models/ a source becomes
  --list         print the names of models/models.lock
Environment: HF_TOKEN (of gated repositories), HF_ENDPOINT (a mirror), OFFLINE=1 (touch no network),
SHA256 (of a single file whose hub names none), MODELS_DIR.
TEXT
}

# --- the lock ----------------------------------------------------------------------------------------------

is_path() { [[ $1 =~ $PATH_FORM && $1 != *.part && $1 != *.part.of && $1 != tiny && $1 != tiny/* && $1 != models.lock* ]]; }

check_row() { # WHERE NAME REPO COMMIT FILE SIZE SHA256 REST
    [[ -n $7 && -z $8 ]] || fail "$1: a line has six columns: name repo commit file size sha256."
    [[ $2 =~ $NAME_FORM ]] || fail "$1: '$2' is no name."
    [[ $3 =~ $REPO_FORM ]] || fail "$1: '$3' is no repository; it looks like owner/name."
    [[ $4 == - || $4 =~ ^$HEX{40}$ ]] || fail "$1: '$4' is no commit: 40 digits of hexadecimal, or -."
    is_path "$5" || fail "$1: '$5' cannot be a file below models/."
    [[ $6 == - || $6 =~ ^[1-9][0-9]{0,14}$ ]] || fail "$1: '$6' is no size: bytes, or -."
    [[ $7 == - || $7 =~ ^$HEX{64}$ ]] || fail "$1: '$7' is no sha256: 64 digits of hexadecimal, or -."
}

# Prints the rows of a name, or all; a mistake anywhere in the file is an error.
read_lock() { # FILE [NAME]
    local line number=0 name repo commit file size sha256 rest seen=' '
    [[ -r $1 ]] || fail "$1 is missing or cannot be read. It belongs to this repository: git checkout models/models.lock"
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        read -r name repo commit file size sha256 rest <<<"${line%%#*}" || true
        [[ -n $name ]] || continue
        check_row "$1, line $number" "$name" "$repo" "$commit" "$file" "$size" "$sha256" "$rest"
        [[ $seen != *" $name|$file "* ]] || fail "$1, line $number: $name has $file twice."
        seen+="$name|$file "
        if [[ -z ${2:-} || $name == "$2" ]]; then
            printf '%s %s %s %s %s %s\n' "$name" "$repo" "$commit" "$file" "$size" "$sha256"
        fi
    done <"$1"
}

list_names() {
    local name rest rows last=
    rows=$(read_lock "$LOCK")
    while read -r name rest; do
        if [[ -n $name && $name != "$last" ]]; then printf '%s\n' "$name"; fi
        last=$name
    done <<<"$rows"
}

# Fills in what the lock leaves open with what was recorded here.
with_records() { # ROWS
    local name repo commit file size sha256 records record
    local r_commit r_size r_sha256
    records=
    if [[ -e $LOCAL_LOCK ]]; then records=$(read_lock "$LOCAL_LOCK"); fi
    while read -r name repo commit file size sha256; do
        if [[ $sha256 == - ]]; then
            while read -r record; do
                [[ $record == "$name $repo "*" $file "* ]] || continue
                read -r _ _ r_commit _ r_size r_sha256 <<<"$record"
                [[ ! $commit =~ ^$HEX{40}$ || $commit == "$r_commit" ]] || continue
                [[ $size == - || $size == "$r_size" ]] || continue
                commit=$r_commit size=$r_size sha256=$r_sha256
            done <<<"$records"
        fi
        printf '%s %s %s %s %s %s\n' "$name" "$repo" "$commit" "$file" "$size" "$sha256"
    done <<<"$1"
}

# Keeps what a first fetch learned, so that every later one must bring the same.
record_row() { # COMMIT SIZE SHA256; the row is that of fetch_row
    local kept row
    kept=
    if [[ -e $LOCAL_LOCK ]]; then kept=$(read_lock "$LOCAL_LOCK"); fi
    {
        printf '# What was first fetched here of names that models.lock does not pin. Remove a line to trust anew.\n'
        while read -r row; do
            [[ -z $row || $row == "$NAME $REPO "*" $FILE "* ]] || printf '%s\n' "$row"
        done <<<"$kept"
        printf '%s %s %s %s %s %s\n' "$NAME" "$REPO" "$1" "$FILE" "$2" "$3"
    } >"$LOCAL_LOCK.new"
    mv -f "$LOCAL_LOCK.new" "$LOCAL_LOCK"
}

# --- what a source is --------------------------------------------------------------------------------------

# Sets KIND (hub or local), TARGET (below models/) and ROWS (of a hub) or LOCAL (a path).
understand() { # SOURCE
    local row repo revision file
    KIND=hub LOCAL=
    ROWS=$(read_lock "$LOCK" "$1")
    if [[ -n $ROWS ]]; then
        TARGET=$1
        if [[ $ROWS != *$'\n'* ]]; then
            read -r _ _ _ file _ <<<"$ROWS"
            TARGET=${file##*/}
        fi
    elif [[ $1 =~ $SOURCE_FORM && ! -e $1 ]]; then
        repo=${BASH_REMATCH[1]} revision=${BASH_REMATCH[3]:--} file=${BASH_REMATCH[4]}
        [[ $repo =~ $REPO_FORM ]] || fail "'$repo' is no repository; it looks like owner/name."
        is_path "$file" || fail "'$file' cannot be fetched: a file below models/ has letters, digits, . _ + - in its name, and no part of its path begins with a dot."
        ROWS="$1 $repo $revision $file - -"
        TARGET=${file##*/}
    else
        KIND=local LOCAL=$1 TARGET=$(local_target "$1")
    fi
    is_path "$TARGET" || [[ $TARGET == tiny/* ]] || fail "'$TARGET' cannot be a file below models/."
}

print_file() { # SOURCE
    understand "$1"
    printf '%s\n' "$TARGET"
}

# A path below models/ is told from there or from here; another file gets a place below models/.
local_target() { # SOURCE
    local found below
    if [[ $1 != /* && $1 != *../* && -e $MODELS_DIR/$1 ]]; then
        printf '%s' "$1"
        return
    fi
    if [[ ! -e $1 && $1 != */* && $1 != *.gguf && $1 != *.safetensors ]]; then
        fail "'$1' is no name of $LOCK, no owner/repo:file and no file that is here. The names: $(list_names | tr '\n' ' ')"
    fi
    found=$(realpath -m -- "$1") below=$(realpath -m -- "$MODELS_DIR")
    if [[ $found == "$below"/* ]]; then printf '%s' "${found#"$below"/}"; else printf '%s' "${found##*/}"; fi
}

note_licence() {
    case $1 in
        *[Ll]lama-3.3-8[bB]*) say "Note: Meta never published Llama 3.3 8B openly, so the licence of these weights is unclear; llama-3.1-8b-instruct has a clear one (SOURCE, or MODEL_SOURCE in .env)." ;;
    esac
}

# --- files that are there ----------------------------------------------------------------------------------

size_of() { if [[ -e $1 ]]; then stat -L -c %s -- "$1"; else printf 0; fi; }

sha256_of() {
    local line
    line=$(sha256sum <"$1")
    printf '%s' "${line%% *}"
}

git_blob_of() {
    local line
    line=$({ printf 'blob %s\0' "$(size_of "$1")"; cat -- "$1"; } | sha1sum)
    printf '%s' "${line%% *}"
}

megabytes() { printf '%s.%s MB' $(($1 / 1000000)) $(($1 / 100000 % 10)); }

# The engines read as another user than the one who fetched.
let_engines_read() {
    local mode
    mode=$(stat -L -c %a -- "$1")
    (((8#$mode & 4) == 4)) || chmod a+r -- "$1" 2>/dev/null ||
        fail "$1 can be read by its owner only, and engines run as another user: chmod a+r '$1'"
}

stamp_file() { # PATH TARGET SHA256
    mkdir -p -- "$(dirname -- "$VERIFIED/$2")" 2>/dev/null || return 0 # a folder that cannot be written to: hashed each time
    { printf '%s %s\n' "$(stat -L -c '%s %.Y' -- "$1")" "$3" >"$VERIFIED/$2"; } 2>/dev/null || true
}

# The sha256 that was verified of a file that has not changed since; else nothing.
stamped() { # PATH TARGET
    local size time sha256
    if [[ -r $VERIFIED/$2 ]] && read -r size time sha256 <"$VERIFIED/$2" && [[ "$size $time" == "$(stat -L -c '%s %.Y' -- "$1")" ]]; then
        printf '%s' "$sha256"
    fi
}

# Whether the row's file is there and right. One that is there and wrong is an error: it may be somebody's own.
is_there() {
    local known seen
    if [[ -L $DEST && ! -e $DEST ]]; then
        fail "$DEST is a link to what is not here (a container sees only what lies below models/). Put the file itself there: ./download_model.sh '$(readlink -- "$DEST")'"
    fi
    [[ -f $DEST ]] || return 1
    [[ -r $DEST ]] || fail "$DEST cannot be read by user $(id -u): chmod a+r '$DEST'"
    known=$(stamped "$DEST" "$PLACE")
    if [[ -n $known && $SHA256 != - && $known != "$SHA256" ]]; then
        say "$PLACE is an earlier version than $LOCK names."
        return 1
    fi
    if [[ -n $known && -z $VERIFY ]]; then return 0; fi
    identify_present "$known" || return 0
    say "verifying $PLACE"
    seen=$(sha256_of "$DEST")
    if [[ $WANT_SHA256 != - && $seen != "$WANT_SHA256" ]] || [[ $WANT_GIT != - && $(git_blob_of "$DEST") != "$WANT_GIT" ]]; then
        fail "$DEST is not what was expected: its sha256 is $seen, not ${WANT_SHA256#-}. It is damaged, or another model: remove it to fetch it anew, or give it a name of its own and use that as the source."
    fi
    stamp_file "$DEST" "$PLACE" "$seen"
    if [[ -z $PINNED && -w $MODELS_DIR ]]; then
        record_row "${FOUND_COMMIT:--}" "$(size_of "$DEST")" "$seen"
    fi
}

# What a file that is there must be; 1 where nobody says. Sets WANT_SHA256 and WANT_GIT.
identify_present() { # SHA256 OF ITS STAMP
    local found
    WANT_SHA256=$SHA256 WANT_GIT=- FOUND_COMMIT=
    if [[ $SHA256 == - && -n $1 ]]; then WANT_SHA256=$1; fi
    if [[ $WANT_SHA256 == - && -z $OFFLINE ]]; then
        # In a process of its own: whatever the hub answers, a file that is there can be used.
        found=$(locate 2>/dev/null && printf '%s %s %s' "${FOUND_SHA256:--}" "${FOUND_GIT:--}" "${FOUND_COMMIT:--}") || found='- - -'
        read -r WANT_SHA256 WANT_GIT FOUND_COMMIT <<<"$found"
    fi
    if [[ $WANT_SHA256$WANT_GIT == -- ]]; then
        say "$PLACE is used as it is: nothing here says what its sha256 should be."
        return 1
    fi
}

# --- the hub -----------------------------------------------------------------------------------------------

# What curl reads from a pipe: arguments are seen by everybody on the machine, and URLs may be signed.
curl_config() { # URL WHO; the token is for the hub only
    printf 'url = "%s"\n' "$1"
    if [[ $2 == hub && -n $TOKEN ]]; then printf 'header = "Authorization: Bearer %s"\n' "$TOKEN"; fi
}

origin() { # of a URL: scheme, host and port
    local rest=${1#*://}
    printf '%s' "${1%%://*}://${rest%%[/?#]*}" | tr '[:upper:]' '[:lower:]'
}

check_hub() {
    [[ $HUB =~ ^https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._/-]*)?$ ]] || fail "HF_ENDPOINT is no URL: '$HUB'. It looks like https://huggingface.co"
    [[ -z $TOKEN || $TOKEN =~ ^[A-Za-z0-9._=-]+$ ]] || fail "HF_TOKEN has characters that no token has. Is it quoted, or does it end in a line break?"
    if [[ -n $TOKEN && $HUB == http:* && ! $HUB =~ ^http://(127\.0\.0\.1|localhost)(:|/|$) ]]; then
        fail "HF_ENDPOINT is http://, so HF_TOKEN would cross the network readable. Use https://, or unset HF_TOKEN."
    fi
    [[ -z $GIVEN_SHA256 || $GIVEN_SHA256 =~ ^$HEX{64}$ ]] || fail "SHA256 is no sha256: 64 digits of hexadecimal, in lower case."
    PROTOCOLS='=https'
    if [[ $HUB == http:* ]]; then PROTOCOLS='=http,https'; fi
}

header() { # NAME, in lower case: its value in the last answer, or nothing
    local line value=
    while IFS= read -r line; do
        line=${line%$'\r'}
        if [[ $line == HTTP/* ]]; then value=; fi
        if [[ ${line,,} == "$1:"* ]]; then
            value=${line#*:}
            value=${value#"${value%%[![:space:]]*}"}
        fi
    done <"$SCRATCH/headers"
    printf '%s' "$value"
}

complaint() { # what curl said of its failure
    local line=
    read -r line <"$SCRATCH/complaint" || true
    printf '%s' "${line:-curl ended with $1}"
}

# One HEAD request. Sets STATUS; 1 where another try may help.
ask() { # URL
    local code=0
    STATUS=000 WAIT=
    : >"$SCRATCH/headers"
    curl --disable --config <(curl_config "$1" hub) --head --silent --show-error --globoff --proto "$PROTOCOLS" \
        --suppress-connect-headers --connect-timeout 20 --max-time 60 --output /dev/null \
        --dump-header "$SCRATCH/headers" --write-out '%{http_code}' >"$SCRATCH/status" 2>"$SCRATCH/complaint" || code=$?
    STATUS=$(<"$SCRATCH/status")
    if ((code != 0)); then
        COMPLAINT=$(complaint "$code")
        refuse_for_good "$code"
        return 1
    fi
}

refuse_for_good() { # CODE OF CURL
    case $1 in
        1 | 47) fail "curl does not follow the redirects of $HUB ($COMPLAINT)." ;;
        51 | 58 | 59 | 60 | 77 | 83 | 90 | 91)
            fail "no safe connection to $HUB: $COMPLAINT. Check the clock and the CA certificates (SSL_CERT_FILE names other ones)." ;;
    esac
}

# Notes what the hub's own answer says of the content. The answer of a CDN has an etag of another kind.
note_identity() {
    local etag size commit
    etag=$(header x-linked-etag) size=$(header x-linked-size) commit=$(header x-repo-commit)
    if [[ $STATUS == 200 ]]; then etag=${etag:-$(header etag)} size=${size:-$(header content-length)}; fi
    etag=${etag#W/} etag=${etag//\"/}
    if [[ -z $FOUND_SHA256 && $etag =~ ^$HEX{64}$ ]]; then FOUND_SHA256=$etag; fi
    if [[ -z $FOUND_GIT && $etag =~ ^$HEX{40}$ ]]; then FOUND_GIT=$etag; fi
    if [[ -z $FOUND_SIZE && $size =~ ^[1-9][0-9]{0,14}$ ]]; then FOUND_SIZE=$size; fi
    if [[ -z $FOUND_COMMIT && $commit =~ ^$HEX{40}$ ]]; then FOUND_COMMIT=$commit; fi
}

revision() { if [[ $REVISION == - ]]; then printf main; else printf '%s' "$REVISION"; fi; }

# Asks the hub for the row's file. Sets FOUND_URL, FOUND_AT (hub or cdn) and what it says of the content; 1 where
# another try may help. It follows redirects by itself, as the token must not follow to another host.
locate() {
    local url location
    FOUND_URL='' FOUND_AT=hub FOUND_SHA256='' FOUND_GIT='' FOUND_SIZE='' FOUND_COMMIT=''
    url=$HUB/$REPO/resolve/$(revision)/$FILE
    for _ in 1 2 3 4 5; do
        ask "$url" || return 1
        case $STATUS in
            200)
                note_identity
                FOUND_URL=$url
                return 0
                ;;
            301 | 302 | 303 | 307 | 308)
                note_identity
                location=$(header location)
                if [[ $location == /* && $location != //* ]]; then location=$(origin "$url")$location; fi
                [[ $location =~ ^https?://[^\"\\[:space:][:cntrl:]]+$ ]] || fail "$HUB redirects to what is no URL."
                url=$location
                if [[ $(origin "$url") != "$(origin "$HUB")" ]]; then
                    FOUND_URL=$url FOUND_AT=cdn
                    return 0
                fi
                ;;
            401 | 403) explain_refusal ;;
            404 | 410) fail "$HUB has no $FILE in $REPO ($(revision)): $(header x-error-message). Look at $HUB/$REPO/tree/main for the names of its files." ;;
            408 | 425 | 429 | 5??)
                COMPLAINT="$HUB answers $STATUS"
                WAIT=$(header retry-after)
                return 1
                ;;
            *) fail "$HUB answers $STATUS to a question about $REPO, which was not expected. Is HF_ENDPOINT a hub?" ;;
        esac
    done
    fail "$HUB redirects in a circle for $REPO."
}

explain_refusal() {
    if [[ -z $TOKEN ]]; then
        fail "$HUB wants to know who asks for $REPO ($STATUS): it is gated, private, or does not exist. If it is gated: log in there, accept its terms at $HUB/$REPO, make a token that may read it, and set HF_TOKEN."
    fi
    fail "$HUB refuses $REPO to this HF_TOKEN ($STATUS): accept its terms at $HUB/$REPO with the account of the token, and see that the token may read gated repositories."
}

# --- one file from the hub ---------------------------------------------------------------------------------

# Settles what must come: what is pinned, else what the hub says.
agree() {
    WANT_SHA256=$SHA256 WANT_SIZE=$SIZE WANT_GIT=-
    if [[ $SHA256 != - && -n $FOUND_SHA256 && $FOUND_SHA256 != "$SHA256" ]]; then
        fail "$HUB has another $FILE in $REPO than the one that is pinned: sha256 $FOUND_SHA256, not $SHA256. Nothing was fetched. $(name_pin)"
    fi
    if [[ $SIZE != - && -n $FOUND_SIZE && $FOUND_SIZE != "$SIZE" ]]; then
        fail "$HUB has another $FILE in $REPO than the one that is pinned: $FOUND_SIZE bytes, not $SIZE. Nothing was fetched. $(name_pin)"
    fi
    if [[ $SIZE == - ]]; then WANT_SIZE=${FOUND_SIZE:--}; fi
    if [[ $SHA256 != - ]]; then return; fi
    WANT_SHA256=${FOUND_SHA256:--}
    if [[ $WANT_SHA256 == - ]]; then WANT_GIT=${FOUND_GIT:--}; fi
    if [[ $WANT_SHA256$WANT_GIT == -- ]]; then
        fail "$HUB does not say what $FILE must be (neither x-linked-etag nor a git hash), so it could not be verified. Take its sha256 from a source that you trust: SHA256=... ./download_model.sh '$NAME'"
    fi
}

name_pin() {
    if [[ -n $GIVEN_SHA256 ]]; then
        printf 'The pin is SHA256.'
    else
        printf 'The pins are in %s and %s.' "$LOCK" "$LOCAL_LOCK"
    fi
}

# A part of other content than what is wanted now is worth nothing.
prepare_part() {
    local wanted="$WANT_SHA256 $WANT_GIT" was=
    mkdir -p -- "$(dirname -- "$DEST")"
    if [[ -e $PART ]]; then
        read -r was <"$PART.of" 2>/dev/null || true
        if [[ $was != "$wanted" ]]; then
            say "the file has changed since its download began; from the start"
            rm -f -- "$PART"
        elif [[ $WANT_SIZE != - ]] && (($(size_of "$PART") > WANT_SIZE)); then
            rm -f -- "$PART"
        fi
    fi
    printf '%s\n' "$wanted" >"$PART.of"
}

check_room() { # BYTES that are still to come
    local wanted=$(($1 + $1 / 20)) free
    free=$(df -B1 --output=avail -- "$MODELS_DIR" | tail -n 1)
    ((free >= wanted)) || fail "the disk of $MODELS_DIR has no room: $(megabytes "$wanted") are needed (5 % more than what is to come), $(megabytes "$free") are free."
}

stop_curl() {
    if [[ -n $CURL_PID ]]; then
        kill "$CURL_PID" 2>/dev/null || true
        wait "$CURL_PID" 2>/dev/null || true
        CURL_PID=
    fi
}

progress() { # BYTES THAT WERE THERE, SECOND OF THE START
    local have now=$SECONDS speed left='' percent=''
    have=$(size_of "$PART")
    speed=$(((have - $1) / (now > $2 ? now - $2 : 1)))
    if [[ $WANT_SIZE != - ]]; then
        percent=" of $(megabytes "$WANT_SIZE"), $((have * 100 / WANT_SIZE)) %"
        if ((speed > 0)); then left=", $(((WANT_SIZE - have) / speed)) s left"; fi
    fi
    if [[ -t 2 ]]; then
        printf '\r%s: %s%s, %s/s%s   \r' "$PLACE" "$(megabytes "$have")" "$percent" "$(megabytes "$speed")" "$left" >&2
    else
        say "$PLACE: $(megabytes "$have")$percent, $(megabytes "$speed")/s$left"
    fi
}

# Waits for curl, says how far it is, and stops one that gets more than was promised.
watch_curl() { # BYTES THAT WERE THERE
    local start=$SECONDS told=$SECONDS every=$PROGRESS_SECONDS nap=0.05
    if [[ -t 2 ]]; then every=1; fi
    while kill -0 "$CURL_PID" 2>/dev/null; do
        sleep "$nap"
        if ((SECONDS > start)); then nap=0.5; fi
        if [[ $WANT_SIZE != - ]] && (($(size_of "$PART") > WANT_SIZE)); then kill "$CURL_PID" 2>/dev/null || true; fi
        if ((SECONDS - told >= every)); then
            progress "$1" "$start"
            told=$SECONDS
        fi
    done
    if [[ -t 2 ]]; then
        progress "$1" "$start"
        printf '\n' >&2
    fi
}

# Gets what is missing of PART. 1 where another try may help; sets COMPLAINT and WAIT.
transfer() {
    local have code=0 options=() alone=()
    have=$(size_of "$PART")
    if [[ $WANT_SIZE != - ]] && ((have == WANT_SIZE && have > 0)); then return 0; fi
    if [[ $WANT_SIZE != - ]]; then
        check_room $((WANT_SIZE - have))
        options+=(--max-filesize "$WANT_SIZE")
    fi
    if ((have > 0)); then
        say "going on at $(megabytes "$have")"
        options+=(--continue-at "$have")
    fi
    if [[ $FOUND_AT == cdn ]]; then options+=(--location --max-redirs 5 --proto-redir "$PROTOCOLS"); fi
    # If this script is killed, curl must not go on writing beside its successor. Without setpriv it would hold the
    # lock (descriptor 9) until it ends, and the successor would wait.
    if command -v setpriv >/dev/null; then alone=(setpriv --pdeathsig KILL); fi
    : >"$SCRATCH/headers"
    "${alone[@]}" curl --disable --config <(curl_config "$FOUND_URL" "$FOUND_AT") --fail --silent --show-error --globoff \
        --proto "$PROTOCOLS" --suppress-connect-headers --connect-timeout 20 --speed-limit 1000 --speed-time "$STALL_SECONDS" \
        "${options[@]}" --output "$PART" --dump-header "$SCRATCH/headers" --write-out '%{http_code}' \
        >"$SCRATCH/status" 2>"$SCRATCH/complaint" &
    CURL_PID=$!
    watch_curl "$have"
    wait "$CURL_PID" || code=$?
    CURL_PID=
    STATUS=$(<"$SCRATCH/status")
    judge_transfer "$code" "$have"
}

judge_transfer() { # CODE OF CURL, BYTES THAT WERE THERE
    local now length
    now=$(size_of "$PART") length=$(header content-length) WAIT=
    COMPLAINT=$(complaint "$1")
    if [[ $WANT_SIZE != - ]] && ((now > WANT_SIZE || $1 == 63)); then
        rm -f -- "$PART"
        COMPLAINT="more than the $WANT_SIZE bytes that were promised came"
        return 1
    fi
    if [[ $STATUS == 416 ]]; then # curl takes it for the end of a file, which it is not: then nothing was missing
        start_anew
        return 1
    fi
    case $1 in
        0) ;;
        22)
            COMPLAINT="the download is answered with $STATUS" WAIT=$(header retry-after)
            return 1
            ;;
        23) fail "$PART cannot be written: $COMPLAINT. Is the disk full ($(df -h --output=avail -- "$MODELS_DIR" | tail -n 1 | tr -d ' ') are free)? What came is kept: make room, then run the same command again." ;;
        33)
            start_anew
            return 1
            ;;
        *)
            refuse_for_good "$1"
            return 1
            ;;
    esac
    if [[ $STATUS != 200 && $STATUS != 206 ]]; then
        truncate -s "$2" -- "$PART"
        COMPLAINT="the download is answered with $STATUS"
        return 1
    fi
    if [[ $WANT_SIZE != - && $STATUS == 200 && -n $length && $length != "$WANT_SIZE" ]]; then
        rm -f -- "$PART"
        COMPLAINT="the download has $length bytes, where $WANT_SIZE were promised"
        return 1
    fi
    if [[ $WANT_SIZE != - ]] && ((now < WANT_SIZE)); then
        COMPLAINT="the download ended $((WANT_SIZE - now)) bytes early"
        return 1
    fi
}

start_anew() {
    rm -f -- "$PART"
    restarts=$((restarts + 1))
    COMPLAINT="the server cannot go on where a download stopped; from the start"
    ((restarts < RESTARTS)) || fail "$(origin "$FOUND_URL") cannot resume a download, and it broke $restarts times. Try another mirror (HF_ENDPOINT), or fetch the file in another way and put it at $DEST."
}

# Whether PART is what was wanted; one that is not is removed.
is_right() {
    say "verifying $PLACE"
    SEEN_SHA256=$(sha256_of "$PART")
    [[ $SEEN_SHA256 =~ ^$HEX{64}$ ]] || fail "$PART could not be read to verify it. It is kept: run the same command again."
    if [[ $WANT_SHA256 != - && $SEEN_SHA256 != "$WANT_SHA256" ]] || [[ $WANT_GIT != - && $(git_blob_of "$PART") != "$WANT_GIT" ]]; then
        rm -f -- "$PART"
        COMPLAINT="what came has the sha256 $SEEN_SHA256, which is wrong"
        return 1
    fi
}

publish() {
    chmod a+r -- "$PART"
    sync -- "$PART" 2>/dev/null || true
    if [[ -z $PINNED ]]; then
        record_row "${FOUND_COMMIT:--}" "$(size_of "$PART")" "$SEEN_SHA256"
        say "$NAME is pinned from now on: sha256 $SEEN_SHA256, in $LOCAL_LOCK"
    fi
    mv -f -- "$PART" "$DEST"
    rm -f -- "$PART.of"
    stamp_file "$DEST" "$PLACE" "$SEEN_SHA256"
    say "$PLACE: there, $(megabytes "$(size_of "$DEST")"), verified"
}

back_off() { # ATTEMPTS IN A ROW WITHOUT A BYTE MORE
    local seconds=$BACKOFF_SECONDS
    for ((; $1 > 1 && seconds < 60; )); do
        seconds=$((seconds * 2))
        set -- $(($1 - 1))
    done
    if ((seconds > 60)); then seconds=60; fi
    if [[ ${WAIT:-} =~ ^[0-9]{1,9}$ ]] && ((WAIT > seconds)); then seconds=$((WAIT < 300 ? WAIT : 300)); fi
    say "$PLACE: $COMPLAINT; again in $seconds s"
    sleep "$seconds" 9>&- & # in the background, where a signal need not wait for it
    wait $!
}

fetch_row() {
    local idle=0 total=0 corrupt=0 restarts=0 before
    say "fetching $PLACE from $HUB/$REPO ($(revision))"
    while true; do
        before=$(size_of "$PART")
        if locate; then
            agree
            prepare_part
            if transfer; then
                if is_right; then
                    publish
                    return
                fi
                corrupt=$((corrupt + 1))
                ((corrupt < 2)) || fail "$PLACE: $COMPLAINT, for the second time. Nothing was kept. Try another mirror (HF_ENDPOINT) or later."
            fi
        fi
        idle=$((idle + 1)) total=$((total + 1))
        if (($(size_of "$PART") > before)); then idle=1; fi
        ((idle < ATTEMPTS && total < TOTAL_ATTEMPTS)) ||
            fail "$PLACE could not be fetched: $COMPLAINT. $(megabytes "$(size_of "$PART")") are kept: run the same command again to go on. Without a network, put the file at $DEST and set OFFLINE=1."
        back_off "$idle"
    done
}

# --- one source --------------------------------------------------------------------------------------------

take_row() { # ROW of ROWS; sets what the functions above read
    read -r NAME REPO REVISION FILE SIZE SHA256 <<<"$1"
    PLACE=$TARGET PINNED=''
    if [[ $SHA256 != - ]]; then PINNED=yes; fi
    if [[ $ROWS == *$'\n'* ]]; then PLACE=$TARGET/$FILE; fi
    if [[ -n $GIVEN_SHA256 ]]; then
        [[ $ROWS != *$'\n'* ]] || fail "SHA256 is for a single file, and $NAME has several."
        [[ $SHA256 == - || $SHA256 == "$GIVEN_SHA256" ]] || fail "SHA256 is not what is pinned for $NAME: $SHA256. $LOCAL_LOCK or $LOCK has it."
        SHA256=$GIVEN_SHA256
    fi
    DEST=$MODELS_DIR/$PLACE PART=$MODELS_DIR/$PLACE.part
}

missing_rows() { # prints the rows that are not there
    local row
    while read -r row; do
        take_row "$row"
        is_there || printf '%s\n' "$row"
    done <<<"$ROWS"
}

explain_offline() { # ROWS
    local row
    say "error: OFFLINE is set, and this is not in $MODELS_DIR:"
    while read -r row; do
        take_row "$row"
        say "  $PLACE: fetch $HUB/$REPO/resolve/$(revision)/$FILE elsewhere and put it at $DEST (sha256: ${SHA256/#-/not known})"
    done <<<"$1"
    exit 1
}

hold_lock() {
    need flock util-linux
    [[ -w $MODELS_DIR ]] || fail "$MODELS_DIR cannot be written to by user $(id -u). Give it to that user (chown), or set STACK_UID and STACK_GID to its owner, $(stat -c '%u and %g' -- "$MODELS_DIR")."
    exec 9>>"$MODELS_DIR/.lock"
    if ! flock -n 9; then
        say "another run fetches into $MODELS_DIR; waiting for it"
        flock -w "$WAIT_SECONDS" 9 || fail "another run has been fetching into $MODELS_DIR for $WAIT_SECONDS s. Look for it, or wait longer: FETCH_WAIT_SECONDS=..."
    fi
}

check_room_for_all() { # ROWS
    local row bytes=0
    while read -r row; do
        take_row "$row"
        if [[ $SIZE != - ]]; then bytes=$((bytes + SIZE - $(size_of "$PART"))); fi
    done <<<"$1"
    check_room "$bytes"
}

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || fail "$1 was not found. On Debian and Ubuntu: apt install $2"
}

fetch_source() {
    local missing row
    SCRATCH=$(mktemp -d)
    check_hub
    ROWS=$(with_records "$ROWS")
    missing=$(missing_rows)
    if [[ -n $missing ]]; then
        [[ -z $OFFLINE ]] || explain_offline "$missing"
        need curl curl
        hold_lock
        ROWS=$(with_records "$ROWS")
        missing=$(VERIFY='' missing_rows) # another run may have fetched it meanwhile
    fi
    if [[ -n $missing ]]; then
        check_room_for_all "$missing"
        while read -r row <&8; do
            take_row "$row"
            fetch_row
        done 8<<<"$missing"
    fi
    exec 9>&-
    rm -rf -- "$SCRATCH"
    say "$TARGET is there"
}

check_own_file() { # PATH: it is taken as it is, if it can be a model at all
    [[ -s $1 || -d $1 ]] || fail "$1 is not there, or empty."
    if [[ $1 == *.gguf && $(head -c 4 -- "$1" | tr -d '\0') != GGUF ]]; then
        fail "$1 is no GGUF file. Is it the page of an error, or the pointer of a file that git lfs has not fetched?"
    fi
    [[ -d $1 ]] || let_engines_read "$1"
}

# A file from elsewhere on this machine gets a place below models/, which is all that containers see.
use_local() {
    local dest=$MODELS_DIR/$TARGET
    if [[ ! -e $dest ]]; then
        [[ -f $LOCAL ]] || fail "$dest is missing. Put the file there; if it lies elsewhere on this machine: ./download_model.sh /path/to/$TARGET"
        check_own_file "$LOCAL"
        hold_lock
        if ! ln -- "$(realpath -- "$LOCAL")" "$dest" 2>/dev/null; then
            check_room "$(size_of "$LOCAL")"
            cp --reflink=auto -- "$LOCAL" "$dest.part"
            mv -f -- "$dest.part" "$dest"
        fi
        exec 9>&-
    elif [[ -f $LOCAL && ! $LOCAL -ef $dest ]] && ! cmp -s -- "$LOCAL" "$dest"; then
        fail "$dest is there already, with other content than $LOCAL. Remove or rename one of them."
    fi
    check_own_file "$dest"
    say "$TARGET is there, used as it is"
}

ensure() { # SOURCE [FILE that the engine will open]
    local target
    if [[ -n ${2:-} ]]; then
        [[ $2 =~ $PATH_FORM ]] || fail "'$2' cannot be a file below models/."
        target=$(print_file "$1" 2>/dev/null) || target=
        if [[ $2 != "$target" ]]; then
            [[ -e $MODELS_DIR/$2 ]] || fail "$MODELS_DIR/$2 is missing, and $1 does not become that file (${target:-it is no source}). Put it there, or change the source or the file."
            check_own_file "$MODELS_DIR/$2"
            say "$2 is there, used as it is"
            return
        fi
    fi
    understand "$1"
    note_licence "$1"
    if [[ $KIND == hub ]]; then fetch_source; else use_local; fi
}

for_compose() {
    local engine=${ENGINE:-llama-cpp} source=${MODEL_SOURCE:-$DEFAULT_SOURCE} file
    chmod a+rx -- "$MODELS_DIR" 2>/dev/null || true # where a umask has closed it to the engines' users
    case $engine in
        external) say "ENGINE=external: its model is elsewhere" ;;
        llama-cpp | max)
            file=${MODEL_FILE:-$(print_file "$source")}
            if [[ $engine == max && $file == *.gguf ]]; then
                say "Note: MAX reads GGUF files on the CPU only; for a GPU, MODEL_SOURCE=llama-3.1-8b-instruct-bf16."
            fi
            ensure "$source" "${MODEL_FILE:-}"
            ;;
        *) fail "ENGINE is '$engine'; it can be llama-cpp, max or external." ;;
    esac
    if [[ ${EMBEDDINGS_SOURCE:-none} == none ]]; then
        say "no model for embeddings is wanted"
    else
        ensure "$EMBEDDINGS_SOURCE" "${EMBEDDINGS_FILE:-}"
    fi
}

interrupted() { # EXIT STATUS; clean_up follows
    say "stopped; what came is kept. Run the same command again to go on."
    exit "$1"
}

clean_up() {
    stop_curl
    if [[ -n $SCRATCH ]]; then rm -rf -- "$SCRATCH"; fi
}

main() {
    local mode=source source=$DEFAULT_SOURCE
    while (($# > 0)); do
        case $1 in
            --verify) VERIFY=yes ;;
            --for-compose | --list) mode=${1#--} ;;
            --print-file)
                (($# > 1)) || fail "--print-file wants a source."
                mode=print-file source=$2
                shift
                ;;
            -h | --help)
                usage
                return
                ;;
            -*) fail "'$1' is no option. $(usage)" ;;
            *) source=${1:-$DEFAULT_SOURCE} ;;
        esac
        shift
    done
    case ${OFFLINE:-} in
        '' | 0 | off | no | false) OFFLINE= ;;
        1 | on | yes | true) OFFLINE=yes ;;
        *) fail "OFFLINE is '$OFFLINE'; it can be 1 or 0." ;;
    esac
    [[ -d $MODELS_DIR ]] || fail "$MODELS_DIR is missing. Run this from the repository, or set MODELS_DIR."
    trap clean_up EXIT
    trap 'interrupted 129' HUP
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    case $mode in
        list) list_names ;;
        print-file) print_file "$source" ;;
        for-compose) for_compose ;;
        *) ensure "$source" ;;
    esac
}

main "$@"
