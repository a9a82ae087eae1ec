"""Makes sure of the packages, then hands over to command.py."""

import sys
from pathlib import Path

from gpu_proof.places import REPOSITORY, Places
from gpu_proof.unpacking import ensure_packages


def _folder(name: str, usual: str) -> Path:
    """The value of an option before there is a parser: --name VALUE or --name=VALUE."""
    for number, word in enumerate(sys.argv):
        if word == f"--{name}" and number + 1 < len(sys.argv):
            return Path(sys.argv[number + 1])
        if word.startswith(f"--{name}="):
            return Path(word.partition("=")[2])
    return REPOSITORY / usual


ensure_packages(
    Places(_folder("inputs", ".gpu-proof"), _folder("work", ".gpu-proof-work")), sys.argv[1:]
)

from gpu_proof.command import main  # noqa: E402 - only now are its packages there

sys.exit(main(sys.argv[1:]))
