# shellcheck shell=bash
# The GPU: there, with a driver that answers, and reachable from containers.
OLDEST_DRIVER=525
BY_CPU="Without it: make start DEVICE=cpu (slow with 8 billion parameters, the same API)."

# device: gpu or cpu, of what was chosen and what is there.
device() {
    local chosen
    chosen=$(setting DEVICE auto)
    if is_engine_elsewhere; then chosen=cpu; elif [[ $chosen == auto ]]; then chosen=gpu; fi
    printf '%s' "$chosen"
}

# gpu_memories: MiB of each GPU (of those in GPUS), with commas between them.
gpu_memories() {
    local -a which=()
    [[ -z $(setting GPUS) ]] || which=(--id="$(setting GPUS)")
    nvidia-smi "${which[@]}" --query-gpu=memory.total --format=csv,noheader,nounits | tr -d ' ' | paste -sd ,
}

# Class 03 is a display or 3D controller, vendor 10de is NVIDIA.
pci_devices() { cat /sys/bus/pci/devices/*/uevent 2>/dev/null || true; }

has_nvidia_card() {
    pci_devices | grep -A 1 -iE '^PCI_CLASS=3[0-9A-F]{4}$' | grep -qi '^PCI_ID=10DE:'
}

check_device() {
    if is_engine_elsewhere; then
        ok "no engine here: those of ENGINE_URLS are used"
    elif [[ $(device) == cpu ]]; then
        ok "the engine runs on the CPU (DEVICE=cpu)"
    else
        check_driver
        check_toolkit
    fi
}

check_driver() {
    if ! command -v nvidia-smi >/dev/null; then
        if has_nvidia_card; then
            fail "An NVIDIA GPU is in this machine, but no driver for it (no nvidia-smi)." \
                "Install the driver (Ubuntu: sudo ubuntu-drivers install; Debian: nvidia-driver) and reboot. $BY_CPU"
        fi
        fail "No NVIDIA GPU was found on this machine." "Use a host with one. $BY_CPU"
    fi
    local version memories
    version=$(timeout 30 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || version=''
    [[ $version =~ ^[0-9]+\. ]] ||
        fail "nvidia-smi is there, but finds no GPU that works." "Run nvidia-smi to see why; after an upgrade of the driver a reboot is due. $BY_CPU"
    at_least "$version" "$OLDEST_DRIVER" ||
        fail "The NVIDIA driver $version is too old for CUDA 12: $OLDEST_DRIVER is needed." "Upgrade it and reboot. $BY_CPU"
    [[ $(setting GPUS) =~ ^([0-9]+(,[0-9]+)*)?$ ]] ||
        fail "GPUS=$(setting GPUS) names no GPUs." "Numbers of nvidia-smi with commas between them, such as GPUS=0,1; without it all are used."
    memories=$(gpu_memories)
    [[ $memories =~ ^[0-9]+(,[0-9]+)*$ ]] ||
        fail "The GPU does not say how much memory it has (nvidia-smi: $memories)." "A plan needs a number. $BY_CPU"
    ok "GPU memory of $memories MiB, driver $version"
}

# `docker run --gpus` wants NVIDIA's runtime, its hook, or a CDI device.
check_toolkit() {
    local runtimes
    runtimes=$(docker info --format '{{json .}}' 2>/dev/null)
    if [[ $runtimes == *'"nvidia":'* || $runtimes == *'nvidia.com/gpu'* ]] || command -v nvidia-container-runtime-hook >/dev/null; then
        ok "Docker can hand the GPU to containers"
        return
    fi
    if command -v nvidia-ctk >/dev/null; then
        fail "The NVIDIA container toolkit is installed, but Docker does not know it." \
            "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    fi
    fail "Docker cannot hand the GPU to containers: the NVIDIA container toolkit is missing." \
        "Install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker. $BY_CPU"
}

# What no file tells: a container of the engine's own image sees the GPU.
check_gpu_in_container() {
    [[ $(device) == gpu ]] || return 0
    local image answer
    if [[ $(setting ENGINE llama-cpp) == max ]]; then image=$(image_named MAX_IMAGE); else image=$(image_named LLAMA_CPP_CUDA_IMAGE); fi
    if ! answer=$(timeout 120 docker run --rm --gpus all --network none --entrypoint nvidia-smi "$image" -L 2>&1) || [[ $answer != *GPU* ]]; then
        fail "A container of $image sees no GPU: $(tail -n 1 <<<"$answer" | cut -c 1-200)" \
            "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker; an error of CUDA's version wants a newer driver. $BY_CPU"
    fi
    ok "$(grep -c '^GPU' <<<"$answer") GPU seen inside the engine's container"
}
