"""Which reader a file gets: by the end of its name, else by its type, else by how it begins."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath

from api_server.errors import UnreadableFileError

Reader = Callable[[Path, int], Iterator[str]]
"""Yields the text of a file, of which no more than so many bytes are wanted."""

HEAD_BYTES = 1024
OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Word before 2007; and what is protected by a password, in all versions."""

READERS: Mapping[str, str] = {
    "pdf": "pdf.read",
    "docx": "office.read_docx",
    "pptx": "office.read_pptx",
    "html": "html.read",
    "htm": "html.read",
    "xhtml": "html.read",
}
TYPES: Mapping[str, str] = {
    "application/pdf": "pdf.read",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "office.read_docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "office.read_pptx",
    "text/html": "html.read",
    "application/xhtml+xml": "html.read",
}
PICTURES_AND_SUCH: Mapping[bytes, str] = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"RIFF": "a picture or a sound",
    b"ID3": "a sound",
    b"OggS": "a sound",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "an archive",
}


def read(path: Path, name: str, content_type: str, most_bytes: int) -> Iterator[str]:
    """The text of a file, in parts. Raises `UnreadableFileError`, and whatever its reader does."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UnreadableFileError("invalid_file", "The file is empty.")
    module, _, function = choose(name, content_type, head).partition(".")
    reader: Reader = getattr(import_module(f"api_server.extraction.{module}"), function)
    return reader(path, most_bytes)


def choose(name: str, content_type: str, head: bytes) -> str:
    """The module and the function that read a file: only those are loaded. Pure.

    Raises `UnreadableFileError` for what has none.
    """
    if head.startswith(OLD_OFFICE):
        raise UnreadableFileError(
            "unsupported_file",
            "The file is protected by a password, or of an Office before 2007: save it without "
            "the password as .docx, .pptx or .pdf.",
        )
    is_binary = b"\0" in head or not head.isascii()
    for mark, what in PICTURES_AND_SUCH.items():
        if is_binary and head.startswith(mark):
            raise UnreadableFileError("unsupported_file", f"The file is {what}, which has no text.")
    ending = PurePosixPath(name.lower()).suffix.lstrip(".")
    plain_type = content_type.partition(";")[0].strip().lower()
    if (reader := READERS.get(ending) or TYPES.get(plain_type)) is not None:
        return reader
    if head.startswith(b"%PDF-"):
        return "pdf.read"
    if head.startswith(b"PK\x03\x04"):
        return "office.read_any"
    return "texts.read"
