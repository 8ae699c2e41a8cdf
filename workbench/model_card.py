"""A section for the audited checkpoint's model card, with the numbers as `model-index` metadata.

Format: Hugging Face model cards (https://huggingface.co/docs/hub/model-cards), written by huggingface_hub.
Read it as: the verdict in the words the evidence allows, and each measured claim as one result.
Does not show: that the numbers were verified by anybody else; `verified` is left out on purpose.
"""

from huggingface_hub import EvalResult, ModelCardData

from workbench.evidence import AuditReport
from workbench.templating import render


def model_card(report: AuditReport) -> str:
    """Metadata and section in one Markdown text."""
    who = report.roles.get("checkpoint")
    name = who.name if who else "checkpoint"
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="unlearning-audit",
            dataset_name=report.concept,
            dataset_config=e.axis,
            dataset_args={"n": e.value.n, "subjects": e.value.clusters},
            metric_type=e.claim,
            metric_name=f"{e.question} ({e.metric})",
            metric_value=round(e.value.mean, 6),
            metric_args={"low": round(e.value.low, 6), "high": round(e.value.high, 6), "status": e.status},
        )
        for e in report.evidence
        if e.value is not None
    ]
    data = ModelCardData(model_name=name, eval_results=results or None, tags=["unlearning", "unlearning-audit"])
    return f"---\n{data.to_yaml()}\n---\n\n" + render("model_card.md", {"report": report, "name": name})
