"""The text of files of each format; the files are made here."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from api_server.errors import UnreadableFileError
from api_server.extraction.formats import read
from tests.documents import docx, pdf, pptx

MANY = 10_000_000


def text_of(folder: Path, name: str, data: bytes, content_type: str = "") -> str:
    path = folder / "file"
    path.write_bytes(data)
    return "".join(read(path, name, content_type, MANY))


@pytest.mark.parametrize(
    "data",
    [
        "naïve 日本 мир".encode(),
        b"\xef\xbb\xbf" + "naïve 日本 мир".encode(),
        b"\xff\xfe" + "naïve 日本 мир".encode("utf-16-le"),
        b"\xfe\xff" + "naïve 日本 мир".encode("utf-16-be"),
        b"\xff\xfe\0\0" + "naïve 日本 мир".encode("utf-32-le"),
    ],
)
def test_text_in_any_unicode(tmp_path: Path, data: bytes) -> None:
    assert text_of(tmp_path, "a.txt", data) == "naïve 日本 мир"


def test_what_is_no_unicode_is_latin_1(tmp_path: Path) -> None:
    assert text_of(tmp_path, "a.txt", "Grüße".encode("latin-1")) == "Grüße"


@pytest.mark.parametrize("name", ["a.py", "a.md", "a.json", "a.csv", "a.tex", "a", "Makefile"])
def test_code_markdown_json_and_csv_are_as_they_stand(tmp_path: Path, name: str) -> None:
    text = '# Title\n\n{"a": [1, 2]}\nx,"y z",3\n'
    assert text_of(tmp_path, name, text.encode()) == text


def test_a_page_is_what_one_sees_of_it(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>The  title</title><style>p {color: red}</style>
    <script>alert("no")</script></head><body><h1>One &amp; two</h1><p>A <b>bold</b>
    word.</p><ul><li>first</li><li>second</li></ul><table><tr><td>1</td><td>2</td></tr></table>
    <pre>as  it
      is</pre><!-- no --><template>no</template></body></html>"""
    text = text_of(tmp_path, "a.html", page.encode())
    assert text.startswith("The title\n\n")
    assert "One & two\n\n" in text
    assert "A bold word." in text
    assert "first\n" in text
    assert "1\t2" in text
    assert "as  it\n      is" in text
    assert "no" not in text.replace("not", "")
    assert "color" not in text


def test_a_page_may_declare_its_encoding_and_be_broken(tmp_path: Path) -> None:
    page = '<meta charset="windows-1251"><p>мир<p>two<div><b>three'.encode("cp1251")
    assert text_of(tmp_path, "a.htm", page).split() == ["мир", "two", "three"]
    lies = b'<meta charset="zip"><p>' + "grün".encode("latin-1")
    assert text_of(tmp_path, "a.html", lies).strip() == "grün"


def test_a_word_file(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>Head</w:t></w:r></w:p>"
        "<w:p><w:r><w:t xml:space='preserve'>One </w:t></w:r><w:r><w:t>two</w:t><w:br/>"
        "<w:t>three</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>in a field</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc>"
        "<w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    )
    for name, content_type in (
        ("a.docx", ""),
        ("a", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a", ""),
    ):
        text = text_of(tmp_path, name, docx(body), content_type)
        assert text.startswith("Head\n\nOne two\nthree\n\nin a field\n\na")
        assert "gone" not in text
        assert text.split()[-2:] == ["a", "b"]


def test_a_presentation_in_the_order_of_its_slides(tmp_path: Path) -> None:
    text = text_of(tmp_path, "a.pptx", pptx([f"slide {number}" for number in range(1, 12)]))
    assert text.split("\n\n")[:11] == [f"slide {number}" for number in range(1, 12)]


def test_a_pdf_page_by_page(tmp_path: Path) -> None:
    text = text_of(tmp_path, "a.pdf", pdf(["First page", "Second page"]))
    assert text.split("\n\n")[:2] == ["First page", "Second page"]
    assert "First page" in text_of(tmp_path, "nameless", pdf(["First page"]))


def picture() -> bytes:
    def block(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(b"\0\0"))


def archive(name: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(name, "text")
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("a.txt", b"", "invalid_file", "empty"),
        ("a.pdf", b"", "invalid_file", "empty"),
        ("a.png", picture(), "unsupported_file", "an image"),
        ("a.txt", picture(), "unsupported_file", "an image"),
        ("a.bin", bytes(range(256)) * 9, "unsupported_file", "neither text"),
        ("a.txt", b"\xff\xfea\0b", "invalid_file", "utf-16"),
        ("a.docx", b"no archive", "invalid_file", "no Office file"),
        ("a.docx", archive("a.txt"), "invalid_file", "word/document.xml"),
        ("a.zip", archive("a.txt"), "unsupported_file", "an archive"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "unsupported_file", "password"),
        ("a.pdf", b"no pdf at all", "invalid_file", "PDF"),
        ("a.pdf", pdf([""]), "invalid_file", "no text"),
        ("a.pdf", pdf(["secret"], password="sesame"), "invalid_file", "encrypted"),
    ],
)
def test_what_cannot_be_read_says_why(
    tmp_path: Path, name: str, data: bytes, code: str, says: str
) -> None:
    with pytest.raises(UnreadableFileError) as refused:
        text_of(tmp_path, name, data)
    assert refused.value.code == code
    assert says in refused.value.message


def test_a_pdf_without_a_password_to_open_it_is_read(tmp_path: Path) -> None:
    assert "open" in text_of(tmp_path, "a.pdf", pdf(["open"], password=""))
