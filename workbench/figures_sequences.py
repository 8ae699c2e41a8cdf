"""The texts in which one feature fires most, token by token, in both models: one text, two rows, one scale.

Read it as: a coloured token is one at which the feature fires, with its activation beneath (Cividis from 0 to the
feature's largest activation in either model; yellow is strong). A plain token is one at which it does not fire.
Underlined tokens are the answer. Blanks and characters that cannot be seen are shown as signs, as in
`workbench.figures_tokens`.
Does not show: other texts than the facts to forget, nor the weak firing of which a feature may have more.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from plotly.colors import sample_colorscale

from workbench.figures_style import INK, MUTED, number
from workbench.figures_tokens import LIGHT, WIDEST, visible
from workbench.trace import Trace

SIDES = ("before", "after")
"""Rows of a text."""

ALONE = "this model"
"""The row where one model was read."""


@dataclass(frozen=True)
class Example:
    """One text with a feature's activations."""

    tokens: Sequence[str]
    """As strings."""
    answer_from: int
    """Place of the answer's first token."""
    sides: Mapping[str, Sequence[float]]
    """`before` and `after`, or `this model` alone -> an activation a token."""


def examples_of(trace: Trace, feature: str) -> tuple[Example, ...]:
    """The texts a run keeps of a feature, the strongest first; none where it keeps none.

    Raises:
        ValueError: when tokens and activations are not as many.
    """
    card, texts = (trace.notes.get("cards") or {}).get(feature) or {}, trace.notes.get("texts") or {}
    found = []
    for one in card.get("examples", ()):
        text = texts[str(one["fact"])]
        sides = {side: [float(value) for value in one[side]] for side in SIDES if side in one}
        sides = sides if "before" in sides else {ALONE: sides["after"]}
        if any(len(values) != len(text["tokens"]) for values in sides.values()):
            raise ValueError(f"the texts of feature {feature} have other lengths than its activations")
        found.append(Example([str(token) for token in text["tokens"]], int(text["answer_from"]), sides))
    return tuple(found)


def examples_html(examples: Sequence[Example]) -> str:
    """The texts as HTML that holds no markup of theirs, and the scale."""
    largest = max((max(values, default=0.0) for one in examples for values in one.sides.values()), default=0.0)
    drawn = "".join(_example(place, one, largest) for place, one in enumerate(examples, 1))
    return f"{drawn}{_scale(largest)}"


def examples_table(examples: Sequence[Example]) -> pd.DataFrame:
    """The numbers drawn, a row a token."""
    rows = [
        {"text": place, "token": i + 1, "string": visible(token), "answer": i >= one.answer_from}
        | {side: values[i] for side, values in one.sides.items()}
        for place, one in enumerate(examples, 1)
        for i, token in enumerate(one.tokens)
    ]
    return pd.DataFrame(rows)


def example_words(place: int, one: Example) -> str:
    """A text in words, for those who cannot see it."""
    told = []
    for side, values in one.sides.items():
        fires = [f"{visible(t)} {number(v)}" for t, v in zip(one.tokens, values, strict=True) if v > 0]
        told.append(f"{side}, fires at {'; '.join(fires)}" if fires else f"{side}, does not fire")
    return f"Text {place}, {''.join(one.tokens).strip()}: {'. '.join(told)}."


_CELL = "padding:2px 3px;text-align:center;vertical-align:top;"
_SIDE = f"{_CELL}text-align:left;color:{MUTED};font-size:0.8rem;font-weight:600;white-space:nowrap;padding-right:10px"
_BOX = (
    "display:inline-block;padding:1px 5px;border-radius:3px;font-family:ui-monospace,monospace;font-size:0.85rem;"
    "white-space:pre;line-height:1.25;"
)


def _example(place: int, one: Example, largest: float) -> str:
    rows = "".join(
        f'<tr><th scope="row" style="{_SIDE}">{side}</th>{_cells(one, values, largest)}</tr>'
        for side, values in one.sides.items()
    )
    said = html.escape(example_words(place, one), quote=True)
    return (
        f'<div role="img" aria-label="{said}" style="overflow-x:auto;padding-bottom:10px">'
        f'<table style="border-collapse:collapse">{rows}</table></div>'
    )


def _cells(one: Example, values: Sequence[float], largest: float) -> str:
    return "".join(
        f'<td style="{_CELL}">{_token(token, value, largest, i >= one.answer_from)}</td>'
        for i, (token, value) in enumerate(zip(one.tokens, values, strict=True))
    )


def _token(token: str, value: float, largest: float, answer: bool) -> str:
    text = html.escape(visible(token, WIDEST), quote=True)
    under = "text-decoration:underline;text-underline-offset:3px;" if answer else ""
    if value <= 0:
        return f'<span title="{text}: does not fire" style="{_BOX}color:{MUTED};{under}">{text}</span>'
    share = value / largest
    look = f"background:{_color(share)};color:{_ink(share)};"
    beneath = f'<br><span style="font-size:0.7rem;display:inline-block;text-decoration:none">{number(value)}</span>'
    word = f'<span style="{under}">{text}</span>'
    return f'<span title="{text}: {number(value)}" style="{_BOX}{look}">{word}{beneath}</span>'


def _color(share: float) -> str:
    found: list[Any] = sample_colorscale("Cividis", [min(1.0, max(0.0, share))])
    return str(found[0])


def _ink(share: float) -> str:
    return INK if share >= LIGHT else "#ffffff"


def _scale(largest: float) -> str:
    """The scale, in colours and numbers."""
    if largest <= 0:
        return ""
    marks = "".join(
        f'<span style="{_BOX}margin:1px;background:{_color(s)};color:{_ink(s)}">{number(s * largest)}</span>'
        for s in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return f'<div style="color:{MUTED};font-size:0.8rem">activation: {marks} · plain: does not fire</div>'
