"""The fixed words of a report: what each axis asks, what the whole can and cannot say, and the glossary.

Read it as: the sentences a reader meets in every report, whatever the numbers.
Does not show: anything about one audit; notes of single claims come from their evidence.
"""

AXIS_WORDS: dict[str, tuple[str, str]] = {
    "outputs": ("Outputs", "Does the checkpoint still give the answers when it is asked directly?"),
    "robustness": ("Robustness", "Do other wordings, formats, sampling, context or jailbreak prompts bring them back?"),
    "decodability": ("Decodability inside", "Can the answers be read off the hidden states, whatever the outputs say?"),
    "storage": ("Storage", "Have the places changed that held the knowledge: weights, value vectors, experts?"),
    "recoverability": ("Recoverability", "How easily does it all come back by relearning, rounding or patching?"),
    "privacy": ("Privacy", "Can the forget set be told apart from text the model never saw?"),
    "utility": (
        "Utility and collateral damage",
        "Does what should stay still stand: neighbours, unrelated facts, "
        "fluency? This is a verdict of its own and never makes up for the others.",
    ),
}
"""Axis -> its heading and what it asks."""

NATURE = (
    "This report is technical evidence about tested behaviour and representations. "
    "It is not proof of deletion and not a legal finding."
)

NO_REFERENCE = (
    "No model retrained without the concept was given. Differences are therefore to facts that were never "
    "taught, to chance or to the base, and the report can say what is suppressed, not decodable or hard to "
    "recover, and nothing beyond that."
)

LIMITATIONS: tuple[tuple[str, str], ...] = (
    (
        "Tested, not all",
        "Claims hold for the prompts, facts, sites, attacks and budgets listed here. A failure to find "
        "knowledge is not its absence; a stronger search can find more.",
    ),
    (
        "A probe is not use",
        "A probe that succeeds shows that information can be read off, not that the model uses it. "
        "A probe that fails shows that this probe, with this much data, cannot.",
    ),
    (
        "A lens is a projection",
        "The logit lens reads a layer through the final norm and unembedding. What a layer "
        "holds in other directions stays unseen.",
    ),
    (
        "A place is a hypothesis",
        "A causal trace or an attribution names candidates. A localisation is a finding only "
        "where editing those sites moves the answer more than editing as many random ones.",
    ),
    (
        "Inconclusive is not equal",
        "An interval that reaches past the margin decides nothing. `No significant "
        "difference` is never read as `equal`; only an equivalence test inside the margin is.",
    ),
    ("Margins are a choice", "They were fixed and hashed before the run, and another margin can give another status."),
    (
        "The reference is one training run",
        "A retrained reference differs from a second retraining too. Equivalence to "
        "it is as good as the one reference given.",
    ),
    ("Few facts", "With few subjects the smallest detectable effect is large. It is printed beside every claim."),
    ("Contamination", "Facts that other training data also holds can be relearned from what was allowed to stay."),
)
"""Heading and sentence."""

STATISTICS: tuple[str, ...] = (
    "Differences are paired by fact where both models were asked the same facts.",
    "Intervals are 95% bootstrap intervals that resample subjects (clusters), because facts about one subject hang "
    "together. Where a claim takes the worst layer its interval is simultaneous over them; bands in pictures are not.",
    "A claim passes only when its whole interval stays on the good side of the margin: no more knowledge left than in "
    "the control, or, for utility, no greater loss. The margin was fixed before the run.",
    "Equivalence to the reference is tested by two one-sided tests, Holm-adjusted over the primary claims; ≡ marks a "
    "claim for which p is at most 0.05 after that. A fail rests on the interval alone and has no p.",
    "The smallest detectable difference is the one that this many items would show with 80% power at 5%.",
    "No score is averaged over axes.",
)

NOT_TRIED = (
    "Whatever is not listed as tried was not tried. That always includes a stronger adversary: more steps, "
    "other data, other languages, and search methods newer than this report."
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("base", "the model before unlearning, which knows the concept"),
    ("checkpoint", "the model under audit"),
    ("reference", "a model trained the same way without the concept"),
    ("never taught", "facts of the same kind that no model was taught: what knowing nothing reads"),
    ("forget, near, far", "the facts to forget; neighbours that must stay; unrelated knowledge that must stay"),
    ("margin", "the largest difference that still counts as none"),
    ("detectable", "the smallest difference this many items would show"),
    ("clusters", "independent subjects among the items"),
    ("logit lens", "the answer's probability read off an inner layer through the model's own unembedding"),
    ("linear probe", "a classifier trained on hidden states, compared with one trained on shuffled labels"),
    ("causal trace", "how much of the answer returns when one clean inner state is put into a corrupted run"),
    ("relearning", "a short fine-tuning on part of the forget set, read on the rest"),
    ("capped", "kept below a level by missing or failing evidence on the way"),
)
"""Word and what it means."""
