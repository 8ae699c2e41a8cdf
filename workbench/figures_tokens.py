"""Token strips: text token by token, each coloured by its probability, with the number under it.

Read it as: one scale for every strip, 0 to 1 (Cividis; yellow is likely). A blank is shown as a middle dot, a line end
as an arrow, any other character that would not be seen (or would do something) by its code. Dashed: not measured.
Does not show: what stood in second place.
"""

import html
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from workbench.figures_style import INK, MUTED, RULE, describes, finish, number, plain
from workbench.trace import Trace

NAMED = {" ": "·", "\u00a0": "⍽", "\n": "↵", "\r": "␍", "\t": "⇥"}
"""Blanks -> what stands for them."""

UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")
"""Unicode categories that are shown by their code: controls, direction marks, unassigned, other blanks."""

LIGHT = 0.55
"""From this probability on the scale is so light that dark letters are read better."""

WIDEST = 60
"""Characters of one token that are shown."""

DRAWN_FACTS = 60
"""Rows of the map of many facts."""


@dataclass(frozen=True)
class Strip:
    """Text as tokens.

    Raises:
        ValueError: when tokens and numbers are not as many.
    """

    tokens: Sequence[str]
    """As strings."""
    logprob: Sequence[float | None]
    """Of each token, nats; None or NaN where it is not known."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.logprob):
            raise ValueError(f"{len(self.tokens)} tokens and {len(self.logprob)} numbers")

    @property
    def probability(self) -> list[float]:
        """Of each token, NaN where it is not known."""
        return [math.nan if value is None else math.exp(value) for value in self.logprob]


def visible(text: str, width: int = 0) -> str:
    """Text in which every character can be seen and none does anything; shortened when `width` is given."""
    shown = "".join(_sign(c) for c in text)
    return shown[: width - 1] + "…" if width and len(shown) > width else shown


def visible_lines(text: str) -> str:
    """The same for text that is read as text: blanks and line ends stay."""
    return "".join(c if c in " \n" else _sign(c) for c in text)


def _sign(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    return f"\\x{ord(character):02x}" if unicodedata.category(character) in UNSEEN else character


def strips_html(strips: Mapping[str, Mapping[str, Strip]], corner: str = "model") -> str:
    """A table of strips as HTML that holds no markup of the texts.

    Args:
        strips: row (a role) -> column (what the text is) -> strip.
        corner: heading of the first column.
    """
    columns = list(dict.fromkeys(name for row in strips.values() for name in row))
    heads = "".join(f'<th scope="col" style="{_CELL}{_HEAD}">{_safe(name)}</th>' for name in [corner, *columns])
    rows = []
    for role, row in strips.items():
        cells = "".join(
            f'<td style="{_CELL}">{_strip(f"{role}, {name}", row[name]) if name in row else "–"}</td>'
            for name in columns
        )
        rows.append(f'<tr><th scope="row" style="{_CELL}{_HEAD}">{_safe(role)}</th>{cells}</tr>')
    table = f'<table style="border-collapse:collapse;width:100%"><tr>{heads}</tr>{"".join(rows)}</table>'
    return f'<div style="overflow-x:auto">{table}{_scale()}</div>'


def strips_table(strips: Mapping[str, Mapping[str, Strip]]) -> pd.DataFrame:
    """The numbers of strips, a row a token."""
    rows = [
        {"role": role, "text": name, "place": i, "token": visible(token), "probability": p, "logprob": logprob}
        for role, row in strips.items()
        for name, strip in row.items()
        for i, (token, p, logprob) in enumerate(zip(strip.tokens, strip.probability, strip.logprob, strict=True), 1)
    ]
    return pd.DataFrame(rows, columns=["role", "text", "place", "token", "probability", "logprob"])


def strip_words(name: str, strip: Strip) -> str:
    """A strip in words, for those who cannot see it."""
    name = visible_lines(name)
    if not strip.tokens:
        return f"{name}: nothing."
    told = (f"{visible(t)} {number(p)}" for t, p in zip(strip.tokens, strip.probability, strict=True))
    return f"{name}, probability of each token: {'; '.join(told)}."


def strips_of(trace: Trace, fact: str) -> tuple[str, dict[str, Strip]]:
    """What an `answer_tokens` trace holds on one fact: the prompt as the model was shown it, and two strips.

    Args:
        trace: the reading.
        fact: label of the fact.
    """
    at, notes = trace.labels["fact"].index(fact), trace.notes
    answer = [str(token) for token in notes["answer_tokens"][at]]
    values = trace.pick("fact", fact).values[: len(answer)].astype(float).tolist()
    said = [str(token) for token in notes["said_tokens"][at]]
    strips = {"the answer": Strip(answer, values), "what it says": Strip(said, list(notes["said_logprob"][at]))}
    return str(notes["prompt"][at]), strips


def tokens_map(trace: Trace) -> go.Figure:
    """The answers of many facts, a row a fact, a cell a token: one model's `answer_tokens` trace."""
    facts = trace.labels["fact"][:DRAWN_FACTS]
    share = np.exp(trace.values[: len(facts)].astype(float))
    words = np.full(share.shape, "", dtype=object)
    for line, tokens in zip(words, trace.notes["answer_tokens"], strict=False):
        line[: len(tokens)] = [plain(visible(str(token)), 14) for token in tokens[: len(line)]]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=list(trace.labels["token"]),
            y=[plain(fact, 48) for fact in facts],
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            text=words,
            texttemplate="%{text}",
            customdata=np.stack([share.astype(object), words], axis=-1),
            meta=describes("", "", "token", "fact", ("probability", "word")),
            colorbar={"title": {"text": "probability", "side": "right"}, "thickness": 12},
            hovertemplate="%{y}<br>%{customdata[1]}: %{customdata[0]:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", showgrid=False, title_text="token of the answer")
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    read = share[np.isfinite(share)]
    more = "" if len(facts) == len(trace.labels["fact"]) else f" The first {len(facts)} are drawn."
    alt = f"Probability of every token of {len(trace.labels['fact'])} answers, mean {number(read.mean())}.{more}"
    return finish(figure, "Answers token by token", alt, 140 + 18 * len(facts))


_CELL = f"border-bottom:1px solid {RULE};padding:6px 8px;text-align:left;vertical-align:top;"
_HEAD = f"color:{MUTED};font-weight:600;font-size:0.85rem;"
_TOKEN = (
    "display:inline-block;margin:1px;padding:1px 4px;border-radius:3px;text-align:center;"
    "font-family:ui-monospace,monospace;font-size:0.85rem;white-space:pre-wrap;overflow-wrap:anywhere;"
)


def _safe(text: object) -> str:
    return html.escape(visible_lines(str(text)), quote=True)


def _strip(name: str, strip: Strip) -> str:
    if not strip.tokens:
        return f'<span style="color:{MUTED}">nothing</span>'
    spans = "".join(_token(token, p) for token, p in zip(strip.tokens, strip.probability, strict=True))
    return f'<div role="img" aria-label="{html.escape(strip_words(name, strip), quote=True)}">{spans}</div>'


def _token(token: str, probability: float) -> str:
    text, told = html.escape(visible(token, WIDEST), quote=True), number(probability)
    known = math.isfinite(probability)
    look = f"background:{_color(probability)};color:{_ink(probability)};" if known else f"border:1px dashed {MUTED};"
    value = f'<br><span style="font-size:0.7rem">{told if known else "–"}</span>'
    return f'<span title="{text}: {told}" style="{_TOKEN}{look}">{text}{value}</span>'


def _color(probability: float) -> str:
    found: list[Any] = sample_colorscale("Cividis", [min(1.0, max(0.0, probability))])
    return str(found[0])


def _ink(probability: float) -> str:
    return INK if probability >= LIGHT else "#ffffff"


def _scale() -> str:
    """The scale, in colours and numbers."""
    marks = "".join(
        f'<span style="{_TOKEN}background:{_color(p)};color:{_ink(p)}">{p:g}</span>'
        for p in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return f'<div style="color:{MUTED};font-size:0.8rem;padding-top:6px">probability of the token: {marks}</div>'
