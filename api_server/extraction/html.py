"""Text of web pages: what a reader sees, with a line for each block."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from api_server.extraction.texts import contents, decoded

UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
VOID = frozenset(
    {*("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr")}
)
PARAGRAPHS = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "dl", "fieldset", "figure"),
        *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav"),
        *("ol", "p", "pre", "section", "table", "title", "ul"),
    }
)
LINES = frozenset({"br", "dd", "div", "dt", "figcaption", "li", "option", "tr"})
CELLS = frozenset({"td", "th"})

_SPACES = re.compile(r"[ \t\n\r\f]+")
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_MANY_LINES = re.compile(r"\n{3,}")


def read(path: Path, most_bytes: int) -> Iterator[str]:
    """The text of a page in one part."""
    data = contents(path, most_bytes)
    found = _CHARSET.search(data[:2048])
    page = _Page()
    page.feed(decoded(data, found[1].decode("ascii") if found else None))
    page.close()
    yield page.text()


class _Page(HTMLParser):
    """Collects what is seen. Elements that never end hide at most what a browser would hide."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen: list[str] = []
        self._in_pre = 0

    def text(self) -> str:
        joined = "".join(self._parts)
        return _MANY_LINES.sub("\n\n", joined).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in UNSEEN:
            self._unseen.append(tag)
            return
        if tag == "pre":
            self._in_pre += 1
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            while self._unseen.pop() != tag:
                pass
            return
        if tag == "pre" and self._in_pre:
            self._in_pre -= 1
        if tag not in VOID and tag not in CELLS:
            self._space(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._in_pre:
            self._parts.append(data)
        else:
            folded = _SPACES.sub(" ", data)
            before = self._parts[-1][-1:] if self._parts else "\n"
            self._parts.append(folded.lstrip(" ") if before in {"\n", " ", "\t"} else folded)

    def _space(self, tag: str) -> None:
        if self._unseen:
            return
        if tag in PARAGRAPHS:
            self._parts.append("\n\n")
        elif tag in LINES:
            self._parts.append("\n")
        elif tag in CELLS:
            self._parts.append("\t")
