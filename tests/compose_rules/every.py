"""The rules by name, each a function from a document to its faults."""

from collections.abc import Callable, Iterator

from tests.compose_rules import images, order, programs, rights, settings, v1
from tests.compose_rules.files import Document

Rule = Callable[[Document], Iterator[str]]

RULES: dict[str, Rule] = {
    "docker-compose 1.29 reads it": v1.unknown_to_v1,
    "images": images.image_faults,
    "secrets": settings.secret_faults,
    "no secret is written down": settings.literal_secrets,
    "settings reach the gateway": settings.settings_not_passed,
    "networks": rights.network_faults,
    "ports": rights.port_faults,
    "bounds": rights.bound_faults,
    "programs are in their images": programs.program_faults,
    "health checks can fail": programs.quiet_checks,
    "mounts": order.mount_faults,
    "order": order.order_faults,
    "time to stop": order.time_faults,
    "flags": programs.flag_faults,
}
