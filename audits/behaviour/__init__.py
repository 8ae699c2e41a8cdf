"""Behavioural readings: `look(model, facts) -> Trace`, like every probe. This table is the whole list."""

from workbench.registry import Registry

BEHAVIOUR = Registry(
    "behavioural reading",
    {
        "answer_probability": "audits.behaviour.answers:AnswerProbability",
        "accuracy": "audits.behaviour.answers:Accuracy",
        "best_of_n": "audits.behaviour.answers:BestOfN",
        "perplexity": "audits.behaviour.perplexity:Perplexity",
    },
)
