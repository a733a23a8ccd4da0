"""Builds report pages: one file with its style inside, readable without network or JavaScript, in light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Mood = Literal["", "good", "caution", "bad"]


class Html(str):
    """Text that is markup already. Everything else that reaches a page is escaped."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """Markup that shows `text` as it is; markup is left alone."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """<tag name="value">content</tag>, all of it escaped. `class_` and `data_x` become class and data-x; None is left
    out."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    head = "".join(f' {name}="{html.escape(str(value))}"' for name, value in given.items())
    return Html(f"<{tag}{head}>{joined(content)}</{tag}>")


def joined(parts: Iterable[object]) -> Html:
    return Html("".join(escaped(part) for part in parts))


def page(title: str, *content: object, lead: str = "") -> Html:
    """A whole HTML document. `lead` is the sentence below the title: what the page found."""
    opening = element("header", element("h1", title), element("p", lead, class_="lead") if lead else "")
    return Html(
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark">{element("title", title)}<style>{STYLE}</style></head>\n'
        f"<body><main>{opening}\n{joined(content)}</main></body></html>\n"
    )


def section(heading: str, *content: object) -> Html:
    return element("section", element("h2", heading), *content)


def paragraph(*content: object, quiet: bool = False) -> Html:
    return element("p", *content, class_="quiet" if quiet else None)


def bullets(items: Iterable[object]) -> Html:
    return element("ul", *(element("li", item) for item in items))


def callout(*content: object, mood: Mood = "") -> Html:
    """A box for what must not be overlooked."""
    return element("div", *(c if isinstance(c, Html) else paragraph(c) for c in content), class_=f"callout {mood}")


def details(summary: str, *content: object) -> Html:
    """Content that is folded away until it is asked for."""
    return element("details", element("summary", summary), *content)


@dataclass(frozen=True)
class Figure:
    """A number that stands for itself, with what it counts and a remark."""

    value: str
    label: str
    remark: str = ""
    mood: Mood = ""


def figures(items: Sequence[Figure]) -> Html:
    return element(
        "div",
        *(
            element(
                "div",
                element("div", item.value, class_="value"),
                element("div", item.label, class_="label"),
                element("div", item.remark, class_="remark") if item.remark else "",
                class_=f"figure {item.mood}",
            )
            for item in items
        ),
        class_="figures",
    )


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    text_columns: Iterable[int] = (0,),
    marked: Iterable[int] = (),
    caption: str = "",
) -> Html:
    """A table that scrolls sideways where it is too wide. Numbers stand right, the `text_columns` left; `marked` rows
    stand out."""
    left, stand_out = set(text_columns), set(marked)

    def cell(tag: str, column: int, content: object) -> Html:
        return element(tag, content, class_="text" if column in left else None)

    body = (
        element(
            "tr", *(cell("td", c, value) for c, value in enumerate(row)), class_="marked" if r in stand_out else None
        )
        for r, row in enumerate(rows)
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else "",
            element("thead", element("tr", *(cell("th", c, name) for c, name in enumerate(head)))),
            element("tbody", *body),
        ),
        class_="scroll",
    )


def side_by_side(*content: Html) -> Html:
    """Next to each other where the window is wide enough."""
    return element("div", *content, class_="grid")


STYLE = """
:root { --ground: #fbfbfa; --panel: #ffffff; --ink: #1d1f23; --soft: #646a73; --line: #dfe2e6; --mark: #eaf1fd;
  --good: #18794e; --caution: #a35200; --bad: #c22e3f; --c1: #2563c9; --c2: #c9591a; --c3: #117a65; --c4: #a62f84;
  --c5: #7a6400; --c6: #6a4bcc; --r1: #9cc3f5; --r2: #6aa3ec; --r3: #3f82dd; --r4: #2462bd;
  --r5: #174489; --r6: #0c2b5c; }
@media (prefers-color-scheme: dark) { :root { --ground: #131519; --panel: #1b1e24; --ink: #e7e9ec; --soft: #9aa2ad;
  --line: #333840; --mark: #203049; --good: #5bc894; --caution: #f0a35c; --bad: #ff8591; --c1: #79aefc; --c2: #f79864;
  --c3: #4fc7a6; --c4: #ea83c9; --c5: #d6b94d; --c6: #ab94ff; --r1: #2f4f7f; --r2: #3f6fb3; --r3: #558de0;
  --r4: #7eaff5; --r5: #adcefb; --r6: #dbeafe; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, ul, ol { margin: .5rem 0; max-width: 46rem; }
li { margin: .35rem 0; }
.lead { font-size: 1.08rem; }
.quiet, caption { color: var(--soft); font-size: .9rem; }
code { font: .92em ui-monospace, Consolas, monospace; overflow-wrap: anywhere; }
a { color: var(--c1); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.4rem, 1fr)); gap: .75rem; margin: 1.1rem 0; }
.figure { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.figure .value { font-size: 1.3rem; font-weight: 650; line-height: 1.2; overflow-wrap: anywhere; }
.figure .label { font-size: .92rem; }
.figure .remark { font-size: .83rem; color: var(--soft); }
.figure.good .value { color: var(--good); } .figure.caution .value { color: var(--caution); }
.figure.bad .value { color: var(--bad); }
.callout { border-left: 4px solid var(--c1); background: var(--panel); border-radius: .3rem; padding: .35rem 1rem;
  margin: 1rem 0; max-width: 48rem; }
.callout.good { border-color: var(--good); } .callout.caution { border-color: var(--caution); }
.callout.bad { border-color: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line); white-space: normal;
  min-width: 4.2rem; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
tr.marked td { background: var(--mark); font-weight: 600; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--c1); }
figure { margin: 0; background: var(--panel); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem .9rem; }
figcaption { font-weight: 600; font-size: .98rem; }
figure .quiet { margin: .1rem 0 .3rem; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .85rem; margin: .3rem 0 0; color: var(--soft); }
.legend i { display: inline-block; width: 1.1rem; height: .2rem; border-radius: 1px; margin-right: .35rem;
  vertical-align: middle; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .grid-line { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .marker { stroke: var(--soft); stroke-dasharray: 4 3; } svg .marker-text { fill: var(--ink); }
@media print { body { background: #fff; } figure, .figure, .callout { break-inside: avoid; } }
""".strip()
