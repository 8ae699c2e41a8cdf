"""Model utility: the harmonic mean of several scores, so that one that is lost loses all.

Source: TOFU, https://arxiv.org/abs/2401.06121: nine scores, {retain facts, real authors, world facts} x {probability,
ROUGE-L recall, truth ratio}; probability is taken among options for the last two; the truth ratio is max(0, 1 - R).
Formula: n / sum(1 / score); 0 when a score is 0. TOFU's two files differ in the mean inside R: see truth_ratio.py.
Read it as: 1 is perfect. Does not show: which score fell; read them one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from audits.metrics.probability import among_options, token_probability
from audits.metrics.truth_ratio import Aggregation, truth_score
from workbench.errors import BadInput


def model_utility(scores: Mapping[str, float]) -> float:
    """Harmonic mean of scores in [0, 1].

    Raises:
        BadInput: when there are none, or one is negative or missing: a score that was not read is not left out.
    """
    wrong = [name for name, score in scores.items() if not score >= 0]
    if wrong or not scores:
        raise BadInput(
            f"Model utility needs scores of 0 or more, {', '.join(wrong) or 'none were given'}"
            + (" is not one: read it, or leave it out and say so" if wrong else "")
        )
    values = np.array(list(scores.values()), dtype=float)
    with np.errstate(divide="ignore"):  # a score of 0 makes the sum infinite and the mean 0
        return float(len(values) / (1 / values).sum())


@dataclass(frozen=True)
class TofuSet:
    """What was read on one of TOFU's four sets, an entry a question; losses are means a token in nats."""

    answer: Float[np.ndarray, " n"]
    """Loss of the answer."""
    paraphrased: Float[np.ndarray, " n"]
    """Loss of the paraphrased answer; of the answer itself where there is none."""
    wrong: Float[np.ndarray, "n option"]
    """Losses of the wrong answers."""
    rouge: Float[np.ndarray, " n"]
    """ROUGE-L recall of what was generated."""

    def scores(self, options: bool, how: Aggregation = "true_better", published: bool = False) -> dict[str, float]:
        """Probability, ROUGE and truth ratio.

        Args:
            options: take the probability among the wrong answers, as for real authors and world facts.
            how: score of the truth ratio; `closer_to_1` for the forget set.
            published: geometric mean of the wrong answers, as in aggregate_eval_stat.py.
        """
        right = token_probability(self.answer)
        shares = among_options(right, token_probability(self.wrong)) if options else right
        return {
            "probability": float(shares.mean()),
            "rouge": float(self.rouge.mean()),
            "truth_ratio": float(truth_score(self.paraphrased, self.wrong, how, published).mean()),
        }


def tofu_utility(retain: TofuSet, authors: TofuSet, world: TofuSet, published: bool = False) -> float:
    """TOFU's model utility of its nine scores."""
    sets = {"retain": (retain, False), "authors": (authors, True), "world": (world, True)}
    scores = {
        f"{name} {score}": value
        for name, (read, options) in sets.items()
        for score, value in read.scores(options, published=published).items()
    }
    return model_utility(scores)
