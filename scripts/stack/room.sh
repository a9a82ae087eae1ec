# shellcheck shell=bash
# Memory, disk and ports. What is there already (images, the model, our own ports) is not asked for again.

meminfo() { cat /proc/meminfo; }

host_memory_mib() { meminfo | awk '/^MemTotal:/ { print int($2 / 1024) }'; }

# model_mib: of the model's file where it is here, otherwise of those that are fetched.
model_mib() {
    local file
    file=models/$(model_file)
    if [[ -f $file ]]; then
        echo $(($(stat -L -c %s "$file") / 1048576 + 1))
    elif [[ $(setting ENGINE) == max ]]; then
        echo 16400   # 8 billion parameters of bf16, and the tokenizer
    else
        echo 4900
    fi
}

check_memory() {
    local has needs=4096
    has=$(host_memory_mib)
    if ! is_engine_elsewhere && [[ $(device) == cpu ]]; then needs=$((needs + $(model_mib))); fi
    ((has >= needs)) ||
        fail "This machine has $has MiB of memory, and the stack needs about $needs." \
            "Use a larger one, a smaller model (MODEL_SOURCE, see ./download_model.sh --help), or engines elsewhere (ENGINE=external)."
    ok "$has MiB of memory"
}

# free_mib FOLDER, and the device that it is on.
free_mib() { df -Pk -- "$1" | awk 'NR == 2 { print int($4 / 1024), $1 }'; }

check_disk() {
    local images=0 models=0 images_free models_free images_disk models_disk root
    root=$(docker info --format '{{.DockerRootDir}}')
    [[ -d $root ]] || root=/
    read -r images_free images_disk < <(free_mib "$root")
    read -r models_free models_disk < <(free_mib .)
    are_images_here || images=$(if [[ $(device) == gpu ]]; then echo 12000; else echo 6000; fi)
    is_engine_elsewhere || [[ -e models/$(model_file) ]] || models=$(model_mib)
    if [[ $images_disk == "$models_disk" ]]; then
        needs_disk "$root" "$images_free" $((images + models + 1024)) "images, models and data"
    else
        needs_disk "$root" "$images_free" $((images + 1024)) "images and data"
        needs_disk "$PWD" "$models_free" $((models + 100)) models
    fi
}

# needs_disk FOLDER FREE NEEDED WHAT_FOR
needs_disk() {
    (($2 >= $3)) ||
        fail "The disk of $1 has $2 MiB left, and $4 need about $3." \
            "Free some (docker system df shows what Docker keeps), or move it to a larger disk."
    ok "$2 MiB of disk at $1 ($4: about $3)"
}

are_images_here() {
    local name
    for name in API_SERVER_IMAGE GRAFANA_IMAGE POSTGRES_IMAGE; do
        docker image inspect "$(image_named "$name")" >/dev/null 2>&1 || return 1
    done
}

check_ports() {
    local address
    address=$(setting BIND_ADDRESS 127.0.0.1)
    [[ $address =~ ^[0-9]+(\.[0-9]+){3}$ ]] ||
        fail "BIND_ADDRESS=$address is no IPv4 address." "127.0.0.1 for this machine alone, 0.0.0.0 for everybody who reaches it."
    [[ $(setting API_PORT 8000) != "$(setting GRAFANA_PORT 3000)" ]] ||
        fail "API_PORT and GRAFANA_PORT are both $(setting API_PORT 8000)." "make start GRAFANA_PORT=... gives Grafana another one."
    check_port "$(setting API_PORT 8000)" API_PORT
    check_port "$(setting GRAFANA_PORT 3000)" GRAFANA_PORT
}

# check_port PORT VARIABLE
check_port() {
    local holder
    [[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -lt 65536 ]] || fail "$2=$1 is no port." "It is a number from 1 to 65535."
    if is_port_open "$1"; then
        holder=$(docker ps --filter "publish=$1" --format '{{.Label "com.docker.compose.project"}} {{.Names}}' | head -n 1)
        [[ ${holder%% *} == "$(project_name)" ]] ||
            fail "Port $1 is taken${holder:+ by the container ${holder##* }}." "End that, or take another one: make start $2=$(($1 < 65535 ? $1 + 1 : 8000))"
        ok "port $1 is ours already"
    else
        ok "port $1 is free"
    fi
}

is_port_open() {
    local address
    address=$(setting BIND_ADDRESS 127.0.0.1)
    [[ $address != 0.0.0.0 ]] || address=127.0.0.1
    # shellcheck disable=SC2016
    timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$address" "$1" 2>/dev/null
}
