"""The settings of every row of `bench.unlearning`: which method, where, with which options, on which kind of model."""

from dataclasses import dataclass

CONCEPT = "demo:chemistry"
"""What is unlearned."""

BOTH = ("dense", "moe")


@dataclass(frozen=True)
class Setting:
    """One row."""

    method: str
    """Name in the catalogue."""
    words: tuple[str, ...] = ()
    """Further words of `workbench unlearn`."""
    where: str = "all parameters"
    """Where it acts, for people."""
    kinds: tuple[str, ...] = BOTH
    """Which embedded models it is for."""
    variant: str = ""
    """What tells it from other rows of the method."""

    @property
    def slug(self) -> str:
        """Name of the run's folder."""
        return self.method + (f"-{self.variant}" if self.variant else "")

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.method + (f" ({self.variant})" if self.variant else "")


def options(**given: object) -> tuple[str, ...]:
    """`--set key=value` for each."""
    return tuple(word for key, value in given.items() for word in ("--set", f"{key}={value}"))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "concept_ablation",
        ("--localise", "causal_trace", "--top", "8", *options(mode="zero")),
        "48 neurons, traced",
        ("dense",),
    ),
    Setting("grad_ascent", options(lr=2e-4, steps=60)),
    Setting("npo", options(lr=1e-4, steps=160)),
)
"""Every row, in the order of the table."""
