# shellcheck shell=bash
# What .env says beside the plan: names that something reads, in a form that Compose reads.

# A name that nothing reads is a typing mistake. Known are those of .env.example, and what compose files ask for.
check_names() {
    local known unknown near
    known=$(known_names)
    unknown=$(names_of_user | grep -vE '_(KEY|TOKEN)$' | grep -vxF -f <(printf '%s\n' "$known") | head -n 1) || return 0
    near=$(nearest "$unknown" <<<"$known")
    fail "$unknown in .env is no name that anything here reads." "${near:+Is $near meant? }.env.example has all names; take the line out, or put it right."
}

known_names() {
    local -a files=()
    IFS=: read -ra files <<<"$(setting COMPOSE_EXTRA_FILES)"
    sed -nE 's/^#? ?([A-Z][A-Z0-9_]*)=.*/\1/p' .env.example
    # shellcheck disable=SC2016
    cat docker-compose*.yaml "${files[@]}" 2>/dev/null | grep -oE '\$\{[A-Za-z0-9_]+' | sed 's/^..//'
}

# nearest NAME: of the lines of standard input the one that needs the fewest changes of a letter, if that is three at most.
nearest() {
    awk -v name="$1" '
        function least(a, b) { return a < b ? a : b }
        function distance(a, b,    i, j, d) {
            for (i = 0; i <= length(a); i++) d[i, 0] = i
            for (j = 0; j <= length(b); j++) d[0, j] = j
            for (i = 1; i <= length(a); i++) for (j = 1; j <= length(b); j++)
                d[i, j] = least(least(d[i - 1, j], d[i, j - 1]) + 1, d[i - 1, j - 1] + (substr(a, i, 1) != substr(b, j, 1)))
            return d[length(a), length(b)]
        }
        BEGIN { best = 4 }
        { far = distance(name, $0); if (far < best) { best = far; found = $0 } }
        END { print found }'
}

# Before there is a plan too, what Compose cannot read is said in its own words.
check_compose_files() {
    local said
    said=$(compose_unplanned config --quiet 2>&1) ||
        fail "Docker Compose cannot read its files: $(grep -v '^[[:space:]]*$' <<<"$said" | tail -n 1 | cut -c 1-300)" \
            "Put right what it names (.env, COMPOSE_FILE), then run this again."
    ok "Compose reads its files"
}
