"""Text of Word and PowerPoint files: archives of XML, of which only what is asked for is unpacked.

lxml resolves no entities here, loads nothing, and bounds depth and length of what it parses.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from lxml import etree

from api_server.errors import UnreadableFileError

MOST_BYTES = 256 * 1024 * 1024
"""Of one part, unpacked."""

_SLIDE = re.compile(r"ppt/slides/slide(\d+)\.xml")
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")


def read_docx(path: Path, most_bytes: int) -> Iterator[str]:  # noqa: ARG001
    """Paragraphs and tables in their order, then foot and end notes; no headers, no comments."""
    with _opened(path) as archive:
        main = _main_part(archive)
        yield from _texts(archive, main)
        for name in _NOTES:
            if name in archive.NameToInfo:
                yield from _texts(archive, name)


def read_pptx(path: Path, most_bytes: int) -> Iterator[str]:  # noqa: ARG001
    """The slides in the order of their numbers; no speaker's notes."""
    with _opened(path) as archive:
        found = [each for each in map(_SLIDE.fullmatch, archive.NameToInfo) if each]
        if not found:
            raise UnreadableFileError("invalid_file", "The file is no PowerPoint presentation.")
        for slide in sorted(found, key=lambda each: int(each[1])):
            yield from _texts(archive, slide[0])


def read_any(path: Path, most_bytes: int) -> Iterator[str]:
    """An archive that does not say what it is."""
    with _opened(path) as archive:
        names = set(archive.NameToInfo)
    if any(name.startswith("word/") for name in names):
        return read_docx(path, most_bytes)
    if any(name.startswith("ppt/") for name in names):
        return read_pptx(path, most_bytes)
    raise UnreadableFileError("unsupported_file", "The file is an archive: add what is in it.")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as exc:
        raise UnreadableFileError(
            "invalid_file", "The file is no Office file, or damaged."
        ) from exc


def _main_part(archive: zipfile.ZipFile) -> str:
    """Where the text is: `word/document.xml`, but a file may name another."""
    if "_rels/.rels" in archive.NameToInfo:
        with _part(archive, "_rels/.rels") as stream:
            for _, element in _parsed(stream):
                kind = element.get("Type") or ""
                if kind.endswith("/officeDocument"):
                    return str(PurePosixPath(element.get("Target") or "")).lstrip("/")
    return "word/document.xml"


def _part(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """One part as a stream, which gives no more than the archive says that there is."""
    info = archive.NameToInfo.get(name)
    if info is None:
        raise UnreadableFileError("invalid_file", f"The file has no {name}: it is damaged.")
    if info.file_size > MOST_BYTES:
        raise UnreadableFileError(
            "invalid_file", f"Unpacked, the file has more than {MOST_BYTES} bytes of text."
        )
    if info.flag_bits & 1:
        raise UnreadableFileError("invalid_file", "The file is encrypted: remove its password.")
    return archive.open(info)


def _parsed(stream: IO[bytes]) -> "Iterator[tuple[str, etree._Element]]":
    told = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
    yield from etree.iterparse(stream, ("start", "end"), **told)


def _texts(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """The paragraphs of one part. Word and PowerPoint call text, paragraphs and breaks the same."""
    with _part(archive, name) as stream:
        paragraph: list[str] = []
        cells = doubles = 0
        for event, element in _parsed(stream):
            tag = etree.QName(element).localname
            step = 1 if event == "start" else -1
            if tag == "Fallback":  # the same again, for programs that are older
                doubles += step
            elif tag == "tc":
                cells += step
            if event == "start" or doubles:
                continue
            match tag:
                case "t":
                    paragraph.append(element.text or "")
                case "tab":
                    paragraph.append("\t")
                case "br" | "cr":
                    paragraph.append("\n")
                case "tc":
                    paragraph.append("\t")
                case "p" if cells:
                    paragraph.append(" ")
                    element.clear()
                case "p" | "tr":
                    yield "".join(paragraph).rstrip() + ("\n" if tag == "tr" else "\n\n")
                    paragraph = []
                    element.clear()
                case "tbl":
                    yield "\n"
        yield "".join(paragraph)
