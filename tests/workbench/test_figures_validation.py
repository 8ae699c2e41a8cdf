import numpy as np
import pytest

from probes.vector_validation import VectorValidation
from workbench.checkpoint import Checkpoint
from workbench.figures import alt_text, table_of
from workbench.trace import Trace


@pytest.fixture(scope="module")
def trace(planted, planted_folder):
    sites, concept = tuple(map(str, planted.sites_of(planted.concept.forget.facts))), planted.concept
    with Checkpoint(planted_folder).open() as model:
        return VectorValidation(sites=sites, damage="zero", draws=3).look(model, concept.forget, concept.near)


def test_the_picture_draws_what_the_trace_holds_also_when_it_was_stored(trace, tmp_path):
    trace.save(tmp_path / "trace")
    for stored in (trace, Trace.load(tmp_path / "trace")):
        table = table_of(stored.plot())
        means = {(r["series"], r["facts"]): r for r in table.to_dict("records") if r["series"].endswith("vectors")}
        for kind in ("found", "random"):
            for facts in ("forget", "near"):
                drop = means[f"{kind} vectors", facts]
                assert drop[trace.units] == pytest.approx(np.nanmean(stored.pick("damaged", f"{facts}: {kind}").values))
                assert drop["low"] <= drop[trace.units] <= drop["high"]
        draws = table[table.series == "each random draw"]
        assert draws[trace.units].tolist() == trace.notes["summary"]["logprob"]["draws"]["random"]


def test_the_sentence_names_every_set(trace):
    assert all(words in alt_text(trace.plot()) for words in ("10 vectors, zero", "forget", "near", "found", "random"))
