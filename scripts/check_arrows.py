"""Checks the arrows of the house: which room may import which, and where drivers may be used.

    main -> routes, middleware -> services -> inference, stores -> errors, schemas

`observability` may be used by all. A breach is printed with what to do instead; exit code 1.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "api_server"
ENVIRONMENT_FILE = "settings/environment"
"""The one file that reads the environment and `.env`."""

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "observability": set(),
    "schemas": set(),
    "inference": {"errors", "observability"},
    "stores": {"errors", "schemas", "observability"},
    "services": {"inference", "stores", "errors", "schemas", "observability"},
    "middleware": {"errors", "observability", "schemas"},
    "routes": {"services", "inference.catalogue", "errors", "schemas", "observability"},
    "settings": {"inference", "errors", "schemas"},
    "library": {"inference", "settings", "errors"},
    "composition": {
        *("services", "inference", "stores", "settings", "errors", "schemas", "observability"),
    },
    "main": {
        *("composition", "routes", "middleware", "services"),
        *("settings", "errors", "schemas", "observability"),
    },
    "server": {"composition", "main", "routes", "settings", "errors", "observability"},
    "workers": {
        *("server", "composition", "settings", "observability"),
        *("local.plan", "local.tether"),
    },
    "planning": {"settings", "inference", "errors"},
    "local": {"server", "settings", "inference", "errors"},
    "commands": {
        *("composition", "services", "stores", "settings", "planning"),
        *("errors", "schemas", "observability"),
    },
    "__main__": {"commands", "server", "workers", "local", "settings", "errors", "observability"},
    "__init__": set(),
}

DRIVERS: dict[str, tuple[set[str], str]] = {
    "fastapi": ({"main", "routes", "middleware"}, "return plain values to a route"),
    "starlette": ({"main", "routes", "middleware"}, "return plain values to a route"),
    "uvicorn": ({"server"}, "start the gateway through api_server.server"),
    "python_multipart": ({"routes"}, "give a service the parts of a form"),
    "httptools": ({"inference/handlers"}, "speak to engines through a handler"),
    "httpx": ({"inference/handlers"}, "speak to engines through a handler"),
    "aiohttp": ({"inference/handlers"}, "speak to engines through a handler"),
    "asyncpg": ({"stores"}, "go through a store"),
    "redis": ({"stores"}, "go through a store"),
    "qdrant_client": ({"stores"}, "go through a store"),
    "minio": ({"stores"}, "go through a store"),
    "urllib3": ({"stores"}, "go through a store"),
    "urllib.request": (set(), "use httptools through a handler"),
    "http.client": (set(), "use httptools through a handler"),
    "requests": (set(), "use httptools through a handler"),
    "dotenv": ({ENVIRONMENT_FILE}, "read the value in settings and pass it on"),
}


def breaches_of(path: str, source: str) -> list[str]:
    """What is wrong with one file; `path` is relative to the repository, with slashes."""
    room = path.removeprefix(f"{PACKAGE}/").removesuffix(".py").split("/")[0]
    found = []
    if room not in ROOMS:
        return [f"{path}:1: no room is called '{room}'; see design and ARCHITECTURE.md"]
    tree = ast.parse(source)
    for line, module in _imports(tree):
        parts = module.split(".")
        if parts[0] == PACKAGE:
            target = parts[1] if len(parts) > 1 else "__init__"
            allowed_here = ROOMS[room] | {room, "__init__"}
            if target not in allowed_here and ".".join(parts[1:3]) not in allowed_here:
                allowed = ", ".join(sorted(ROOMS[room])) or "nothing"
                found.append(
                    f"{path}:{line}: {room} must not import {target}; it may use {allowed}"
                )
        elif (driver := _driver(module)) is not None:
            rooms, remedy = DRIVERS[driver]
            if not any(path.startswith(f"{PACKAGE}/{place}") for place in rooms):
                where = ", ".join(sorted(rooms)) or "no room"
                found.append(f"{path}:{line}: {driver} only in {where}; {remedy}")
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Global):
            found.append(f"{path}:{line}: no `global`; keep state on an object that main.py builds")
        if _reads_environment(node) and path != f"{PACKAGE}/{ENVIRONMENT_FILE}.py":
            found.append(
                f"{path}:{line}: only {ENVIRONMENT_FILE}.py reads the environment; pass the value"
            )
        if "BaseHTTPMiddleware" in (getattr(node, "id", ""), getattr(node, "attr", "")):
            found.append(f"{path}:{line}: BaseHTTPMiddleware breaks streams; write pure ASGI")
    return found


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, f"{PACKAGE}.relative-import-use-the-full-name"
            elif node.module == PACKAGE:
                for alias in node.names:
                    room = alias.name if alias.name in ROOMS else "__init__"
                    yield node.lineno, f"{PACKAGE}.{room}"
            elif node.module:
                yield node.lineno, node.module


def _driver(module: str) -> str | None:
    """The entry of `DRIVERS` that an imported module falls under."""
    return next((name for name in DRIVERS if f"{module}.".startswith(f"{name}.")), None)


def _reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(n.name in {"environ", "getenv"} for n in node.names)
    return (
        isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    )


def main() -> int:
    """Check every file of the package."""
    root = Path(__file__).resolve().parent.parent
    found = [
        breach
        for path in sorted((root / PACKAGE).rglob("*.py"))
        for breach in breaches_of(path.relative_to(root).as_posix(), path.read_text())
    ]
    print("\n".join(found) or "arrows: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
