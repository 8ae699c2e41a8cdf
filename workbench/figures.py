"""The door to every picture: a trace or a report in, one plotly figure out, the same in notebook, app and report.

    figure_of(trace)                       the picture of one model's reading
    compare_layers / compare_maps / ...    base, checkpoint, reference and never taught in one picture
    ladder(report) / forest(report)        the whole audit
    alt_text(figure) / table_of(figure)    the finding as a sentence, and the numbers drawn

Read it as: each picture's module says how. What was not measured is a gap or a cross, never a zero.
Does not show: anything a trace does not hold; nothing is computed here but means, intervals and differences.
"""

import plotly.graph_objects as go

from workbench.cards import edit_card, evidence_card, trace_card
from workbench.figures_bars import compare_ranked, measure_bars, ranked_bars
from workbench.figures_curves import compare_layers, compare_means, layer_curve, relearn_curves
from workbench.figures_features import feature_scatter
from workbench.figures_lens import words_map
from workbench.figures_maps import compare_maps, map_figure
from workbench.figures_probes import kinds_figure
from workbench.figures_strip import move_strips
from workbench.figures_style import ITEMS, alt_text, table_of
from workbench.figures_tokens import tokens_map
from workbench.figures_trace import mixes_places, places_figure
from workbench.figures_validation import validation_figure
from workbench.figures_verdict import forest, forest_of, ladder
from workbench.map_grids import is_map
from workbench.trace import Trace
from workbench.vector_strip import strip_of, told

__all__ = [
    "alt_text",
    "compare_layers",
    "compare_maps",
    "compare_means",
    "compare_ranked",
    "edit_card",
    "evidence_card",
    "figure_of",
    "forest",
    "forest_of",
    "kind_of",
    "ladder",
    "move_strips",
    "ranked_bars",
    "relearn_curves",
    "table_of",
    "trace_card",
]


def kind_of(trace: Trace) -> str:
    """Which kind of picture fits a trace: `layers`, `relearning`, `map`, `means`, `measures` or `ranked`."""
    rest = [axis for axis in trace.axes if axis not in ITEMS]
    if rest == ["layer"]:
        return "layers"
    if rest == ["step"]:
        return "relearning"
    if is_map(trace):
        return "map"
    if "measure" in rest:
        return "measures"
    return "ranked" if rest else "means"


def figure_of(trace: Trace) -> go.Figure:
    """The picture of one model's reading, chosen by the trace's axes."""
    kind = kind_of(trace)
    if trace.name == "sae_features":
        return feature_scatter(trace)
    if trace.name == "vector_validation":
        return validation_figure(trace)
    if trace.name == "answer_tokens":
        return tokens_map(trace)
    if trace.name == "probe_kinds":
        return kinds_figure({str(trace.notes.get("model", "model")): trace}, "Probes of several kinds")
    if trace.name == "moved_vectors":
        return move_strips({str(trace.notes.get("model", "model")): strip_of(trace)}, said=[told(trace)])
    if trace.name == "lens_words":
        return words_map({str(trace.notes.get("model", "model")): trace}, trace.labels["fact"][0])
    if mixes_places(trace):
        return places_figure(trace)
    if kind == "layers":
        return layer_curve(trace)
    if kind == "relearning":
        return relearn_curves({str(trace.notes.get("role", trace.name)): trace}, trace.name)
    if kind == "measures":
        return measure_bars(trace)
    return map_figure(trace) if kind == "map" else ranked_bars(trace)
