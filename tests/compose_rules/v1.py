"""What docker-compose 1.29 can read: the keys of its own schema."""

from collections.abc import Iterator

from tests.compose_rules.files import Document, dependencies, services

SERVICE_KEYS = """
blkio_config build cap_add cap_drop cgroup_parent command configs container_name cpu_count
cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset
credential_spec depends_on deploy device_cgroup_rules devices dns dns_opt dns_search domainname
entrypoint env_file environment expose extends external_links extra_hosts group_add healthcheck
hostname image init ipc isolation labels links logging mac_address mem_limit mem_reservation
mem_swappiness memswap_limit network_mode networks oom_kill_disable oom_score_adj pid pids_limit
platform ports privileged profiles pull_policy read_only restart runtime scale secrets
security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty
ulimits user userns_mode volumes volumes_from working_dir
"""
BUILD_KEYS = (
    "context dockerfile args labels cache_from network target shm_size extra_hosts isolation"
)
DEPLOY_KEYS = """
mode endpoint_mode replicas labels rollback_config update_config resources restart_policy placement
"""
CHECK_KEYS = "disable interval retries test timeout start_period"

V1_TOP_LEVEL = frozenset({"version", "services", "networks", "volumes", "secrets", "configs"})
V1_SERVICE = frozenset(SERVICE_KEYS.split())
V1_INSIDE = {
    "healthcheck": frozenset(CHECK_KEYS.split()),
    "build": frozenset(BUILD_KEYS.split()),
    "deploy": frozenset(DEPLOY_KEYS.split()),
}
V1_DEPENDENCY = frozenset({"condition"})


def unknown_to_v1(document: Document) -> Iterator[str]:
    """Keys that docker-compose 1.29.2 refuses, by its own schema."""
    yield from (
        f"top level: {key}"
        for key in document
        if key not in V1_TOP_LEVEL and not key.startswith("x-")
    )
    for name, service in services(document).items():
        yield from (f"{name}: {key}" for key in service if key not in V1_SERVICE)
        for section, known in V1_INSIDE.items():
            yield from (
                f"{name}.{section}: {key}" for key in service.get(section, {}) if key not in known
            )
        for other, how in dependencies(service).items():
            yield from (
                f"{name}.depends_on.{other}: {key}" for key in how if key not in V1_DEPENDENCY
            )
