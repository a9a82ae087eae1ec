"""Files of several formats, made for tests: whole ones and bombs."""

import io
import zipfile
from collections.abc import Sequence

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"


def docx(body: str, *, prolog: str = "") -> bytes:
    """A Word file; `body` is XML, `prolog` comes before its root."""
    rels = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{OFFICE}" Target="word/document.xml"/></Relationships>'
    )
    document = f'{prolog}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return archive({"_rels/.rels": rels, "word/document.xml": document})


def pptx(slides: Sequence[str]) -> bytes:
    """A presentation with a text on each slide, written down in another order."""
    parts = {}
    for number in sorted(range(1, len(slides) + 1), key=str):
        text = f"<a:p><a:r><a:t>{slides[number - 1]}</a:t></a:r></a:p>"
        parts[f"ppt/slides/slide{number}.xml"] = f'<sld xmlns:a="{DRAWING}">{text}</sld>'
    return archive(parts)


def archive(parts: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return made.getvalue()


def docx_bomb(mebibytes: int) -> bytes:
    """A small Word file of which the text is so long."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("word/document.xml", "w", force_zip64=True) as part,
    ):
        part.write(f'<w:document xmlns:w="{WORD}"><w:body>'.encode())
        block = b"<w:p><w:r><w:t>bomb</w:t></w:r></w:p>" * 28_340
        for _ in range(mebibytes):
            part.write(block)
        part.write(b"</w:body></w:document>")
    return made.getvalue()


def billion_laughs() -> bytes:
    """A Word file whose XML multiplies itself."""
    entities = '<!ENTITY a0 "lol">' + "".join(
        f'<!ENTITY a{number} "{f"&a{number - 1};" * 10}">' for number in range(1, 12)
    )
    prolog = f"<!DOCTYPE d [{entities}]>"
    return docx("<w:p><w:r><w:t>&a11;</w:t></w:r></w:p>", prolog=prolog)


def file_thief(path: str) -> bytes:
    """A Word file that wants another file's contents in its text."""
    prolog = f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{path}">]>'
    return docx("<w:p><w:r><w:t>before &x; after</w:t></w:r></w:p>", prolog=prolog)


def pdf(pages: Sequence[str], *, password: str | None = None) -> bytes:
    """A PDF with a line of ASCII on each page."""
    return pdf_of([f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() for text in pages], password)


def pdf_of(contents: Sequence[bytes], password: str | None = None) -> bytes:
    """A PDF with these contents of its pages, compressed."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for content in contents:
        page = writer.add_blank_page(612, 792)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(content)
        page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def nested_pdf(depth: int) -> bytes:
    """A PDF of which an object is arrays in arrays."""
    whole = pdf(["deep"])
    return whole.replace(b"/Resources", b"/Deep " + b"[" * depth + b"]" * depth + b" /Resources")


def endless_pdf() -> bytes:
    """A PDF whose tree of pages has itself for a leaf."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Count 1/Kids[2 0 R]>>endobj\n"
        b"trailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF"
    )
