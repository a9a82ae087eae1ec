"""The report in a real browser: nothing is cut, empty, on top of another, or fetched."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from load_tests.report.writing import PAGE
from tests.chromium import Tab, chromium_program, running_chromium
from tests.load_reports import REPORTS, write_reports

PROGRAM = chromium_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

FINDINGS = """
(() => {
  const found = [], page = document.documentElement;
  if (page.scrollWidth > innerWidth) found.push(`the page is ${page.scrollWidth} wide`);
  const hits = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  for (const svg of document.querySelectorAll('figure div > svg')) {
    const box = svg.getBoundingClientRect();
    if (!box.width) continue;
    const name = svg.querySelector('title').textContent;
    if (!svg.querySelector('.mark')) found.push(`${name}: no mark`);
    if (svg.getAttribute('role') !== 'img' || !svg.getAttribute('aria-label'))
      found.push(`${name}: no name for readers`);
    const texts = [...svg.querySelectorAll('text')];
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((one, i) => {
      const said = texts[i].textContent;
      if (one.left < box.left - 0.5 || one.right > box.right + 0.5
          || one.top < box.top - 0.5 || one.bottom > box.bottom + 0.5)
        found.push(`${name}: '${said}' is cut`);
      if (one.height < 9) found.push(`${name}: '${said}' is ${one.height} pixels high`);
      boxes.slice(i + 1).forEach((other, j) => {
        const under = texts[i + 1 + j].textContent;
        if (hits(one, other)) found.push(`${name}: '${said}' is on '${under}'`);
      });
    });
  }
  for (const each of document.querySelectorAll('h1,h2,h3,p,li,figcaption,strong,th,td')) {
    if (each.closest('.scroll') && !each.closest('.facts')) continue;
    if (each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline')
      found.push(`'${each.textContent}' is wider than its room`);
  }
  return found;
})()
"""

CONTRAST = """
(() => {
  const light = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = each => {
    for (let at = each; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = 21, where = '';
  for (const each of document.querySelectorAll('h1,h2,h3,p,li,figcaption,strong,th,td,svg text')) {
    const style = getComputedStyle(each);
    const ink = each.tagName === 'text' ? style.fill : style.color;
    const [one, other] = [light(ink), light(ground(each))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < least) [least, where] = [ratio, each.textContent];
  }
  return [least, where];
})()
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set LOAD_REPORT_SCREENSHOTS to a folder to look at them."""
    folder = tmp_path_factory.mktemp("reports")
    write_reports(folder)
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert PROGRAM is not None
    with running_chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 640, 1000, 1600])
@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_cut_empty_or_on_top_of_another(
    reports: Path, tab: Tab, name: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    address = (reports / name / PAGE).as_uri()
    tab.look(width, 900, scheme)
    tab.open(address)
    assert tab.ask(FINDINGS) == []
    least, where = tab.ask(CONTRAST)
    assert least >= 4.5, f"{where!r} is hard to read"
    assert tab.complaints == []
    assert tab.fetched == [address]
    if shots := os.environ.get("LOAD_REPORT_SCREENSHOTS"):
        Path(shots).mkdir(parents=True, exist_ok=True)
        tab.picture(Path(shots) / f"{name}-{width}-{scheme}.png")


def test_every_picture_is_drawn_or_says_why_not(reports: Path, tab: Tab) -> None:
    drawn: dict[str, Any] = {}
    for name in REPORTS:
        tab.open((reports / name / PAGE).as_uri())
        drawn[name] = tab.ask(
            "[...document.querySelectorAll('figure')].map(each =>"
            " [!!each.querySelector('div > svg'), each.querySelector('.none')?.textContent])"
        )
    assert all(is_drawn != bool(why) for found in drawn.values() for is_drawn, why in found)
    assert all(is_drawn for is_drawn, _ in drawn["broken"][:6])
    assert sum(is_drawn for is_drawn, _ in drawn["unanswered"]) == 2  # throughput, errors
