"""Behavioural readings: `look(model, facts) -> Trace`, like every probe. This table is the whole list."""

from workbench.registry import Registry

BEHAVIOUR = Registry(
    "behavioural reading",
    {
        "answer_probability": "audits.behaviour.answers:AnswerProbability",
        "accuracy": "audits.behaviour.answers:Accuracy",
        "answer_tokens": "audits.behaviour.answer_tokens:AnswersByToken",
        "best_of_n": "audits.behaviour.answers:BestOfN",
        "perplexity": "audits.behaviour.perplexity:Perplexity",
        "truth_ratio": "audits.behaviour.options:TruthRatio",
        "choice": "audits.behaviour.options:ChoiceAccuracy",
        "tofu_losses": "audits.behaviour.tofu_losses:TofuLosses",
        "extraction_strength": "audits.behaviour.memorisation:ExtractionStrength",
        "exact_memorisation": "audits.behaviour.memorisation:ExactMemorisation",
        "generations": "audits.behaviour.generations:Generations",
        "exact_match": "audits.behaviour.overlap:ExactMatch",
        "rouge_l": "audits.behaviour.overlap:RougeL",
        "bleu": "audits.behaviour.overlap:Bleu",
        "knowmem": "audits.behaviour.muse:KnowMem",
        "verbmem": "audits.behaviour.muse:VerbMem",
        "rwku_recall": "audits.behaviour.rwku:RwkuRecall",
        "ngram_entropy": "audits.behaviour.fluency:NgramEntropy",
        "gibberish": "audits.behaviour.fluency:Gibberish",
        "next_tokens": "audits.behaviour.kl_to_base:NextTokens",
        "kl_to_base": "audits.behaviour.kl_to_base:KlToBase",
    },
)
