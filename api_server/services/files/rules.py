"""What a file may be called, what it may be for, and how long it lives. Pure."""

import mimetypes
import re
import unicodedata
from typing import Annotated

import msgspec

from api_server.errors import InvalidRequestError

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LONGEST_NAME = 255
BATCH_SECONDS = 30 * 86_400
"""What batches need lives so long, where nobody says otherwise."""

UNKNOWN_TYPE = "application/octet-stream"
_EXTENSIONS = {
    "batch": (".jsonl",),
    "fine-tune": (".jsonl",),
    "evals": (".jsonl",),
    "vision": (".png", ".jpg", ".jpeg", ".gif", ".webp"),
}
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}")

FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
"""Of the form of a file, beside its content."""

LeastSeconds, MostSeconds = 3600, 2_592_000


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """`expires_after` of a request."""

    seconds: Annotated[int, msgspec.Meta(ge=LeastSeconds, le=MostSeconds)]
    anchor: str

    def checked(self) -> int:
        """Seconds. Raises `InvalidRequestError`."""
        if self.anchor != "created_at":
            raise InvalidRequestError(
                "expires_after.anchor: must be created_at.", param="expires_after.anchor"
            )
        return self.seconds


def expires_after_of(fields: dict[str, str]) -> int | None:
    """Seconds, of the fields of a form. Raises `InvalidRequestError`."""
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit()
    if not is_number or not LeastSeconds <= int((seconds or "")[:12]) <= MostSeconds:
        raise InvalidRequestError(
            f"expires_after.seconds: must be {LeastSeconds} to {MostSeconds}.",
            param="expires_after.seconds",
        )
    return ExpiresAfter(seconds=int(seconds or ""), anchor=anchor or "").checked()


def lifetime(purpose: str, expires_seconds: int | None) -> int | None:
    """Seconds that a file lives, None: until it is deleted."""
    return BATCH_SECONDS if expires_seconds is None and purpose == "batch" else expires_seconds


def check_purpose(purpose: str | None) -> str:
    """Raises `InvalidRequestError` for what is none."""
    if purpose is None:
        raise InvalidRequestError("purpose is required.", param="purpose")
    if purpose not in PURPOSES:
        raise InvalidRequestError(
            f"purpose: must be one of {', '.join(PURPOSES)}.", param="purpose"
        )
    return purpose


def check_type(purpose: str, filename: str, param: str = "file") -> None:
    """Raises `InvalidRequestError` where files of a purpose are of a kind that this one is not."""
    wanted = _EXTENSIONS.get(purpose)
    if wanted is not None and not filename.lower().endswith(wanted):
        raise InvalidRequestError(
            f"{param}: for the purpose {purpose} its name must end in {' or '.join(wanted)}.",
            param=param,
        )


def safe_name(filename: str) -> str:
    """Without a path and without what cannot be shown or kept."""
    name = filename.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(each for each in name if unicodedata.category(each)[0] != "C").strip()
    if len(shown) > LONGEST_NAME:
        stem, dot, extension = shown.rpartition(".")
        keeps = bool(dot) and len(extension) < 32
        shown = (
            f"{stem[: LONGEST_NAME - len(extension) - 1]}.{extension}"
            if keeps
            else shown[:LONGEST_NAME]
        )
    return "file" if shown in ("", ".", "..") else shown


def type_of(content_type: str | None, filename: str) -> str:
    """The type that was told, else what the name says."""
    told = (content_type or "").partition(";")[0].strip().lower()
    if _TYPE.fullmatch(told) and told != UNKNOWN_TYPE:
        return told
    return mimetypes.guess_type(filename)[0] or UNKNOWN_TYPE
