"""Writes docker-compose.gpus.yaml: an engine for each of several GPUs. Pure functions.

The services are taken from docker-compose.yaml and docker-compose.gpu.yaml, so that they stay what
those say; ${...} stay for Compose to fill in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from api_server.errors import SetupError
from api_server.planning.env_block import engine_names

HEAD = """\
# Written by make start for {count} of this machine's GPUs, from docker-compose.yaml and
# docker-compose.gpu.yaml: an engine for each. Changes here are lost at the next start.
"""
Document = dict[str, Any]


def parse(text: str, name: str) -> Document:
    """A compose file with its anchors resolved. Raises `SetupError` when it is none."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise SetupError(f"{name} is not valid YAML. `git checkout {name}` restores it.") from exc
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise SetupError(f"{name} has no services. `git checkout {name}` restores it.")
    return document


def gpus_file(base: Document, gpu: Document, engine: str, ids: Sequence[int]) -> str:
    """The override file's text. `base` and `gpu`: the two files; `ids`: the GPUs, by nvidia-smi's
    numbers. Raises `SetupError`.
    """
    names = engine_names(engine, len(ids))
    first = names[0]
    override = gpu["services"].get(first)
    if first not in base["services"] or override is None:
        raise SetupError(f"Neither compose file may lack the service {first}; restore them.")
    whole = _merged(base["services"][first], override)
    services: Document = {first: override | {"deploy": _on(ids[0])}}
    for number, name in zip(ids[1:], names[1:], strict=True):
        services[name] = whole | {"deploy": _on(number)}
    for name, service in gpu["services"].items():
        if name not in base["services"]:  # what watches the GPUs sees all of them
            services[name] = service | {"deploy": _gpus({"count": "all"})}
    text = yaml.dump(
        {"services": services}, Dumper=_Plain, sort_keys=False, width=1000, allow_unicode=True
    )
    return HEAD.format(count=len(ids)) + text


class _Plain(yaml.SafeDumper):
    """Without anchors of its own: each service can be read by itself."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _on(number: int) -> Document:
    return _gpus({"device_ids": [str(number)]})


def _gpus(which: Document) -> Document:
    devices = [{"driver": "nvidia", **which, "capabilities": ["gpu"]}]
    return {"resources": {"reservations": {"devices": devices}}}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Document:
    """As Compose does it: mappings are joined, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        mine = merged.get(key)
        both = isinstance(mine, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(mine, value) if both else value  # type: ignore[arg-type]
    return merged
