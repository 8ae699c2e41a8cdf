"""When to stop: a rule over the numbers that evaluation gives while a model trains.

Read it as: `StopRule(mode="max", patience=3, best=True)`: stop after three evaluations without a new best value, and
leave the model as it was at the best one. The first of equal values counts. A value that is not a number is never the
best, and counts as no improvement.
Does not show: that the best step is the best on other data; the number that chose it is flattered by the choice.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StopRule(BaseModel):
    """When training ends before its last step, and which parameters it leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mode: Literal["min", "max"] = "min"
    """Whether a smaller or a larger number is better."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations in a row without a new best value; None: never for that."""
    least: float = Field(0.0, ge=0)
    """By how much a value must be better than the best one to be the new best."""
    threshold: float | None = None
    """Stop as soon as a value is at least this good; None: never for that."""
    best: bool = False
    """Leave the model with the parameters of the best evaluation instead of the last ones."""

    @model_validator(mode="after")
    def _rules_something(self) -> "StopRule":
        if self.patience is None and self.threshold is None and not self.best:
            raise ValueError("a StopRule needs patience, threshold or best=True")
        return self


@dataclass
class Course:
    """The evaluations so far and what follows from them; the same values in the same order give the same course."""

    rule: StopRule | None
    values: list[tuple[int, float]] = field(default_factory=list)
    """Step and value of each evaluation."""
    best: int | None = None
    """Step of the best one."""
    why: str = ""
    """Why training ends now; empty: it does not."""
    _best_value: float = math.nan
    _waited: int = 0

    def note(self, step: int, value: float) -> bool:
        """Take in an evaluation; returns whether it is the new best."""
        self.values.append((step, value))
        if self.rule is None:
            return False
        better = self._better(self.rule, value)
        if better:
            self.best, self._best_value, self._waited = step, value, 0
        else:
            self._waited += 1
        self.why = self._reason(self.rule, value)
        return better

    def _better(self, rule: StopRule, value: float) -> bool:
        if math.isnan(value) or self.best is None:
            return not math.isnan(value)
        gain = self._best_value - value if rule.mode == "min" else value - self._best_value
        return gain > rule.least

    def _reason(self, rule: StopRule, value: float) -> str:
        if rule.threshold is not None and (value <= rule.threshold if rule.mode == "min" else value >= rule.threshold):
            return f"{value:g} reached the threshold {rule.threshold:g}"
        if rule.patience is not None and self._waited >= rule.patience:
            return f"no better value in {self._waited} evaluations; the best was at step {self.best}"
        return ""
