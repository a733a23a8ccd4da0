"""Report pages stand alone, and nothing from outside becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from trainer.reports.html import Figure, Html, bullets, callout, details, element, figures, page, section, table
from trainer.reports.plot import MOST_POINTS, Axis, Bar, Marker, Series, bar_plot, line_plot, thinned

NASTY = '<script>alert("1")</script>&\'"><img src=x onerror=1>'
VOID = {"meta", "br", "img"}


class Checker(HTMLParser):
    """Collects tags and text, and notices tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(markup: str) -> Checker:
    checker = Checker()
    checker.feed(markup)
    checker.close()
    assert checker.open == []
    return checker


def everything(text: str) -> str:
    series = Series(text, [1, 2, 4], [1.0, None, 3.0], low=[0, 0, 2], high=[2, 2, 4], points=True)
    return page(
        text,
        section(text, text, bullets([text]), callout(text, mood="caution"), details(text, text)),
        figures([Figure(text, text, text)]),
        table([text, "n"], [[text, 1], [text, 2]], marked=[1], caption=text),
        line_plot(text, [series, series], Axis(text, "log"), Axis(text), remark=text, markers=[Marker(2, text)]),
        bar_plot(text, [Bar(text, 3, text), Bar("b", 0)], remark=text),
        lead=text,
    )


def test_text_never_becomes_markup() -> None:
    nasty, harmless = parsed(everything(NASTY)), parsed(everything("harmless"))
    shape = [(tag, sorted(attributes)) for tag, attributes in harmless.tags]
    assert [(tag, sorted(attributes)) for tag, attributes in nasty.tags] == shape
    assert "".join(nasty.text).count(NASTY) == "".join(harmless.text).count("harmless")


def test_a_page_needs_no_network_and_no_script() -> None:
    markup = everything("x")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", markup)  # a namespace is a name, never fetched
    assert not re.search(r"@import|url\(|src=|<script|<link", markup)


def test_attributes_are_escaped() -> None:
    tags = parsed(element("p", Html("<b>x</b>"), class_=NASTY, data_name=None)).tags
    assert tags == [("p", {"class": NASTY}), ("b", {})]


def numbers_of(markup: str, tag: str, attribute: str) -> list[float]:
    return [float(found) for found in re.findall(rf"<{tag} [^>]*\b{attribute}=\"([-\d.]+)\"", markup)]


def test_points_lie_where_the_ticks_say() -> None:
    """x 1, 2, 4, 8 on a log axis are evenly spaced; y 0 is on the axis, 10 at the top; larger is higher."""
    series = Series("s", [1, 2, 4, 8], [0, 5, 10, 2.5], points=True)
    plot = line_plot("t", [series], Axis("x", "log"), Axis("y", zero=True))
    x, y = numbers_of(plot, "circle", "cx"), numbers_of(plot, "circle", "cy")
    steps = [b - a for a, b in pairwise(x)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert steps[0] > 50
    assert y[0] - y[2] == pytest.approx(2 * (y[0] - y[1]), abs=0.2)
    assert y[0] > y[3] > y[1] > y[2]
    texts = parsed(plot).text
    assert {"1", "2", "4", "8", "0", "10"} <= set(texts)


def test_gaps_interrupt_a_line() -> None:
    series = Series("s", [0, 1, 2, 3, 4], [1, 2, None, 2, float("nan")])
    plot = line_plot("t", [series], Axis("x"), Axis("y"))
    assert plot.count("<polyline") == 1  # 0-1
    assert plot.count("<circle") == 1  # 3 stands alone


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [-1e-9, 1e-9], [1e12, 3e12]])
def test_any_data_can_be_drawn(values: list[float]) -> None:
    series = Series("s", [float(i + 1) for i in range(len(values))], values)
    for scale in ("linear", "log"):
        markup = line_plot("t", [series], Axis("x", scale), Axis("y"))  # type: ignore[arg-type]
        assert "nan" not in markup
        parsed(markup)


def test_bars_are_as_long_as_their_values() -> None:
    plot = bar_plot("t", [Bar("a", 10), Bar("b", 5), Bar("c", 0)])
    long, half, none = numbers_of(plot, "rect", "width")
    assert half == pytest.approx(long / 2, abs=0.2)
    assert none == 1.0


def test_thinning_keeps_ends_and_extremes() -> None:
    x = np.arange(100_000.0)
    y = np.random.default_rng(0).normal(size=100_000)
    y[31_415], y[27_182] = 99.0, -99.0
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 402
    assert {99.0, -99.0} <= set(few_y)
    assert few_x[0] == 0
    assert few_x[-1] == 99_999
    assert (np.diff(few_x) > 0).all()


def test_a_long_line_is_drawn_with_few_points_and_a_faint_ones_peak_does_not_flatten_the_rest() -> None:
    x = np.arange(100_000.0)
    y = 1 + 0.1 * np.sin(x)
    y[50_000] = 1e6
    plot = line_plot("t", [Series("raw", x, y, faint=True), Series("clear", x, np.ones_like(x))], Axis("x"), Axis("y"))
    drawn = re.findall(r'points="([^"]*)"', plot)
    assert [len(points.split()) <= MOST_POINTS + 2 for points in drawn] == [True, True]
    assert 'aria-label="t: clear ends at 1"' in plot
    assert {"0.9", "1.1"} <= set(parsed(plot).text)
    heights = [float(pair.split(",")[1]) for points in drawn for pair in points.split()]
    assert 0 <= min(heights) < max(heights) <= 300


def test_a_plot_says_that_there_is_nothing_and_draws_what_is_finite() -> None:
    assert "Nothing to show" in line_plot("t", [], Axis("x"), Axis("y"))
    assert "Nothing to show" in line_plot("t", [Series("s", [1], [float("nan")])], Axis("x"), Axis("y"))
    assert "none yet" in bar_plot("t", [], empty="none yet")
    plot = line_plot("t", [Series("s", [0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0])], Axis("x"), Axis("y"))
    assert "nan" not in plot
    assert "inf" not in plot
