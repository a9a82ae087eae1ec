"""Text of PDFs, page by page, by pypdf."""

from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PdfReadError

from api_server.errors import UnreadableFileError


def read(path: Path, most_bytes: int) -> Iterator[str]:  # noqa: ARG001
    """The text of each page. Scanned pages have none: no characters are recognized here."""
    with path.open("rb") as file:
        try:
            reader = PdfReader(file)
        except PdfReadError as exc:
            raise UnreadableFileError("invalid_file", "The file is no PDF, or damaged.") from exc
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFileError("invalid_file", "The PDF is encrypted: remove its password.")
        has_text = False
        for page in reader.pages:
            text = page.extract_text()
            has_text = has_text or not (not text or text.isspace())
            yield text + "\n\n"
        if not has_text:
            raise UnreadableFileError(
                "invalid_file",
                "The PDF has no text. If its pages are scanned, have their characters recognized "
                "first.",
            )
