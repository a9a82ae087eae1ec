"""Makes a bare Python able to run the rest, from the inputs. Uses the standard library alone."""

import os
import sys
import tarfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gpu_proof.places import PYTHONS, Places

NEEDED = ("locust", "msgspec", "pydantic", "uvicorn", "yaml")
_AGAIN = "GPU_PROOF_PACKAGES"


def missing_packages() -> list[str]:
    """Those that this Python cannot import."""
    return [name for name in NEEDED if find_spec(name) is None]


def ensure_packages(places: Places, argv: Sequence[str]) -> None:
    """Return when all is there; else unpack the inputs and become a Python that has them.

    Ends the process with a sentence when that is not possible.
    """
    missing = missing_packages()
    if not missing:
        return
    if not places.packages.exists():
        sys.exit(
            f"error: this Python has no {', '.join(missing)}, and {places.packages} is not there: "
            "run `make gpu-proof STEP=prepare` on a machine with a network and bring the folder, "
            "or use the Python of .venv (make lint makes it)"
        )
    if os.environ.get(_AGAIN):
        sys.exit(f"error: {places.site} lacks {', '.join(missing)}: remove it and run this again")
    if not places.site.exists():
        unpack(places.packages, places.site.parent, places.site.name)
    if not places.site.exists():
        sys.exit(f"error: the inputs are for Python {' and '.join(PYTHONS)}: use one of them")
    variables = os.environ | {"PYTHONPATH": str(places.site.absolute()), _AGAIN: "1"}
    os.execve(sys.executable, [sys.executable, "-m", "gpu_proof", *argv], variables)  # noqa: S606


def unpack(archive: Path, target: Path, top: str | None = None) -> None:
    """All of an archive, or what is under one folder of it; `target` appears only when whole."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    with tarfile.open(archive) as packed:
        # Missing before Python 3.11.4; we wrote the archive ourselves.
        packed.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in packed:
            if top is None or member.name.split("/")[0] == top:
                packed.extract(member, unfinished)
    if top is None:
        unfinished.replace(target)
        return
    target.mkdir(parents=True, exist_ok=True)
    if (unfinished / top).exists():
        (unfinished / top).replace(target / top)
