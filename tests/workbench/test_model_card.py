"""The section for a model card: metadata that others' tools can read, words that stay text."""

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from tests.workbench.test_report import report as made
from workbench.model_card import model_card


def test_the_metadata_reads_back() -> None:
    report = made()
    text = model_card(report)
    head = yaml.safe_load(text.split("---")[1])
    name, results = model_index_to_eval_results(head["model-index"])
    measured = [e for e in report.evidence if e.value is not None]
    assert [r.metric_type for r in results] == [e.claim for e in measured]
    assert [r.metric_value for r in results] == [round(e.value.mean, 6) for e in measured]
    assert report.verdict in text.replace("\\", "")
    assert ModelCardData(**{k.replace("-", "_"): v for k, v in head.items() if k != "model-index"})
