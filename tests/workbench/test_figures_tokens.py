"""Token strips and the lens over one text: the numbers drawn, one scale, and text of models that can do nothing."""

import html
import json
import math
import re

import numpy as np
import pytest

from workbench.errors import BadInput
from workbench.figures import alt_text, figure_of, table_of
from workbench.figures_click import CellAt, clickable, clicked
from workbench.figures_lens import CHANGE, grids_figure, word_grid, words_map
from workbench.figures_tokens import Strip, strip_words, strips_html, strips_of, strips_table, tokens_map, visible
from workbench.trace import Trace

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "![i](http://evil.example/a.png)",
    "\x1b[31m\x1b]0;title\x07",
    "\u202egnp.exe\u200b",
    "a\x00b\x7f\u2028",
    "&lt;b&gt; &amp;",
    "$x$ `c` :material/home:",
)


def tokens(name: str = "m", values=((-0.1, -2.0), (-3.0, math.nan))) -> Trace:
    notes = {
        "model": name,
        "prompt": ["p0", "p1"],
        "answer": ["a b", "c"],
        "answer_tokens": [[" a", " b"], [" c"]],
        "said": ["x", ""],
        "said_tokens": [[" x"], []],
        "said_logprob": [[-0.5], []],
    }
    labels = {"fact": ("0: p0", "1: p1"), "token": ("1", "2")}
    return Trace("answer_tokens", np.array(values), ("fact", "token"), "nats", labels, notes)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_models_is_seen_and_does_nothing(text):
    strips = {text: {text: Strip([text, " b"], [-0.1, None])}}
    drawn = strips_html(strips, corner=text)
    tags = re.findall(r"<[^>]*>", drawn)
    assert {re.match(r"</?(\w+)", tag).group(1) for tag in tags} <= {"div", "table", "tr", "th", "td", "span", "br"}
    assert not re.search(r"(?i)\son\w+\s*=", " ".join(tags).replace(html.escape(text), ""))
    for control in ("\x1b", "\x07", "\x00", "\x7f", "\u202e", "\u200b", "\u2028"):
        assert control not in drawn
        assert control not in strip_words(text and "role", strips[text][text])
        assert not strips_table(strips)["token"].str.contains(control, regex=False).any()


def test_attributes_cannot_be_left():
    drawn = strips_html({'r" onmouseover="x': {"t": Strip(['" onmouseover="alert(1)'], [-1.0])}})
    assert 'onmouseover="' not in drawn and "&quot; onmouseover" in drawn.replace("·", " ")


def test_blanks_are_dots_and_what_is_not_seen_has_a_code():
    assert visible(" of\n\tx\x1b") == "·of↵⇥x\\x1b"
    assert visible("naïve 漢字 🙂") == "naïve·漢字·🙂"
    assert visible("abcdef", 4) == "abc…" and visible("abcd", 4) == "abcd"


def test_a_probability_has_one_colour_wherever_it_stands():
    one = strips_html({"a": {"t": Strip(["x"], [math.log(0.5)])}})
    other = strips_html({"b": {"t": Strip(["y", "z"], [math.log(0.5), math.log(0.01)])}})
    color = re.search(r'title="x: 0.5" style="[^"]*background:([^;]+);', one).group(1)
    assert re.search(r'title="y: 0.5" style="[^"]*background:([^;]+);', other).group(1) == color
    assert re.search(r'title="z: 0.01" style="[^"]*background:([^;]+);', other).group(1) != color


def test_what_is_not_known_is_dashed_and_not_zero():
    drawn = strips_html({"a": {"t": Strip(["x", "y"], [None, -math.inf])}})
    assert "x: not measured" in drawn and "1px dashed" in drawn
    assert 'title="y: 0"' in drawn


def test_strips_hold_the_numbers_of_the_trace():
    prompt, strips = strips_of(tokens(), "0: p0")
    assert prompt == "p0" and list(strips) == ["the answer", "what it says"]
    assert strips["the answer"].tokens == [" a", " b"] and strips["the answer"].logprob == [-0.1, -2.0]
    _, short = strips_of(tokens(), "1: p1")
    assert short["the answer"].logprob == [-3.0] and short["what it says"].tokens == []
    table = strips_table({"base": strips})
    assert table["probability"].tolist() == pytest.approx([math.exp(v) for v in (-0.1, -2.0, -0.5)])
    assert "·b 0.135" in strip_words("base", strips["the answer"])
    assert "nothing" in strips_html({"base": short})


def test_the_map_of_many_facts_holds_the_numbers():
    figure = figure_of(tokens())
    np.testing.assert_allclose(np.array(figure.data[0].z)[0], np.exp([-0.1, -2.0]))
    assert "Probability of every token of 2 answers" in alt_text(figure)
    assert table_of(figure)["probability"].notna().sum() == 3
    assert len(tokens_map(tokens()).data) == 1


# ---- the lens


def lens(seed: int = 0, layers: int = 3, width: int = 4, words=("<b>x</b>", " tin", "\x1b[1m")) -> Trace:
    draw = np.random.default_rng(seed)
    values = np.stack(
        [
            draw.uniform(0, 1, (2, layers, width)),
            draw.integers(1, 900, (2, layers, width)),
            draw.uniform(0, 1, (2, layers, width)),
            draw.integers(0, len(words), (2, layers, width)),
        ]
    ).astype(np.float32)
    values[:, 1, :, width - 1 :] = np.nan
    labels = {
        "measure": ("probability", "rank", "likeliest", "word"),
        "fact": ("0: p", "1: q"),
        "layer": ("embed", *(f"L{i}" for i in range(layers - 1))),
        "token": tuple(map(str, range(width))),
    }
    text = [f" t{i}" for i in range(width)]
    notes = {
        "tokens": [text, text[:-1]],
        "asked": [text[:], text[:-1]],
        "vocabulary": {str(i): word for i, word in enumerate(words)},
    }
    return Trace("lens_words", values, ("measure", "fact", "layer", "token"), "see measure", labels, notes)


def more(trace: Trace, seed: int = 0, kl: bool = True) -> Trace:
    """The same with entropy, divergence, and the word in the second place."""
    draw = np.random.default_rng(seed)
    shape = trace.values.shape[1:]
    added = [draw.uniform(0, 5, shape), draw.uniform(0, 2, shape) if kl else np.full(shape, np.nan)]
    added += [draw.uniform(0, 0.5, shape), draw.integers(0, 3, shape)]
    values = np.concatenate([trace.values, np.array(added, dtype=np.float32)])
    measures = (*trace.labels["measure"], "entropy", "kl", "likeliest 2", "word 2")
    return Trace(trace.name, values, trace.axes, trace.units, {**trace.labels, "measure": measures}, trace.notes)


def panels(figure) -> dict:
    return {s.meta["panel"]: s for s in figure.data if s.type == "heatmap"}


def test_cells_are_those_of_the_fact():
    cells = word_grid(lens(), "1: q")
    assert cells.layers == ("embed", "0", "1") and cells.tokens == ("0 ·t0", "1 ·t1", "2 ·t2")
    np.testing.assert_allclose(cells.probability, lens().values[0, 1, :, :3])
    ids = lens().values[3, 1, :, :3].astype(int)
    assert cells.words.tolist() == [[visible(("<b>x</b>", " tin", "\x1b[1m")[i]) for i in row] for row in ids]


@pytest.mark.parametrize("statistic", ["probability", "rank"])
def test_panels_share_a_scale_and_the_difference_is_after_minus_before(statistic):
    one, other = lens(0), lens(1)
    figure = words_map({"base": one, "checkpoint": other, "reference": lens(2)}, "0: p", statistic)
    drawn = panels(figure)
    assert list(drawn) == ["base", "checkpoint", CHANGE, "reference"]
    assert {drawn[role].coloraxis for role in ("base", "checkpoint", "reference")} == {"coloraxis"}
    before, after = np.array(drawn["base"].z), np.array(drawn["checkpoint"].z)
    np.testing.assert_allclose(np.array(drawn[CHANGE].z), (after - before) * (1 if statistic == "probability" else -1))
    shown = one.values[0 if statistic == "probability" else 1, 0]
    np.testing.assert_allclose(before, shown if statistic == "probability" else np.log10(shown), rtol=1e-6)
    axis = figure.layout.coloraxis
    assert axis.cmin == 0 and axis.cmax >= max(before.max(), after.max())
    assert "base: " in alt_text(figure)


def test_entropy_has_a_difference_and_the_divergence_neither_one_nor_a_base():
    traces = {"base": more(lens(0), 0, kl=False), "checkpoint": more(lens(1), 1), "reference": more(lens(2), 2)}
    drawn = panels(figure := words_map(traces, "0: p", "entropy"))
    assert list(drawn) == ["base", "checkpoint", CHANGE, "reference"]
    before, after = (traces[role].values[4, 0] for role in ("base", "checkpoint"))
    np.testing.assert_allclose(np.array(drawn[CHANGE].z), after - before, rtol=1e-5)
    assert figure.layout.coloraxis.cmax == pytest.approx(max(t.values[4, 0].max() for t in traces.values()))
    drawn = panels(figure := words_map(traces, "0: p", "kl"))
    assert list(drawn) == ["checkpoint", "reference"] and "lower bound" in alt_text(figure)
    np.testing.assert_allclose(np.array(drawn["checkpoint"].z), traces["checkpoint"].values[5, 0], rtol=1e-6)
    with pytest.raises(BadInput, match="no entropy"):
        words_map({"base": lens()}, "0: p", "entropy")


def test_a_cell_tells_its_likeliest_words_when_pointed_at():
    trace = more(lens(0))
    drawn = clickable(words_map({"base": trace, "old": lens(1)}, "0: p"))
    marks = {s.meta[1]: s for s in drawn.data if isinstance(s.meta, list | tuple) and s.meta[0] == "cell"}
    index = next(i for i, at in enumerate(zip(marks["base"].x, marks["base"].y, strict=True)) if at == ("2 ·t2", "1"))
    words = trace.notes["vocabulary"]
    lines = marks["base"].hovertext[index].split("<br>")
    for line, word, share in zip(lines, ("word", "word 2"), ("likeliest", "likeliest 2"), strict=True):
        cell = trace.values[:, 0, 2, 2]
        of = dict(zip(trace.labels["measure"], cell.tolist(), strict=True))
        assert line == f"{html.escape(visible(words[str(int(of[word]))]), quote=False)}  {of[share]:.2g}"
    assert "%{hovertext}" in marks["base"].hovertemplate and "%{hovertext}" not in marks["old"].hovertemplate
    cells = word_grid(trace, "0: p")
    assert [word for word, _ in cells.places("1", "2 ·t2")] == cells.listed[2, 2].tolist()
    assert word_grid(lens(), "0: p").places("1", "2 ·t2") == [] and cells.places("9", "2 ·t2") == []


def test_other_tokens_are_not_subtracted():
    cut = {"base": word_grid(lens(), "0: p"), "other": word_grid(lens(), "1: q")}
    assert list(panels(grids_figure(cut, "t"))) == ["base", "other"]


def test_a_click_leads_to_the_cell_and_words_are_no_markup():
    figure = clickable(words_map({"base": lens(), "checkpoint": lens(1)}, "0: p"), CellAt("1", "2 ·t2"))
    number = next(i for i, s in enumerate(figure.data) if isinstance(s.meta, list | tuple) and s.meta[0] == "cell")
    marks = figure.data[number]
    index = next(i for i, (x, y) in enumerate(zip(marks.x, marks.y, strict=True)) if (x, y) == ("2 ·t2", "1"))
    assert clicked(figure, {"curve_number": number, "point_index": index}) == CellAt("1", "2 ·t2")
    assert sum(s.meta in (["frame"], ("frame",)) for s in figure.data) == 3
    assert "<b>x" not in json.dumps(figure.to_plotly_json(), default=str) and "\x1b" not in figure.to_json()


def test_a_long_text_gets_no_words_but_all_cells():
    long = lens(0, 5, 200)
    drawn = panels(words_map({"base": long}, "0: p"))["base"]
    assert drawn.texttemplate is None and np.array(drawn.z).shape == (5, 200)
    assert panels(words_map({"base": lens()}, "0: p"))["base"].texttemplate


def test_notes_that_do_not_fit_are_refused():
    broken = lens()
    broken.notes["tokens"][0].pop()
    with pytest.raises(BadInput, match="do not fit"):
        word_grid(broken, "0: p")
    with pytest.raises(BadInput, match="has no '9: z'"):
        word_grid(lens(), "9: z")
