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


TRACED = ("--localise", "causal_trace", "--top", "8")
DENSE, MOE = ("dense",), ("moe",)

SETTINGS: tuple[Setting, ...] = (
    Setting("concept_ablation", (*TRACED, *options(mode="zero")), "48 neurons, traced", DENSE),
    Setting(
        "concept_ablation",
        (*TRACED, *options(mode="needle", sigma=3, ascent_lr=0.01)),
        "48 neurons, traced",
        DENSE,
        "Needle",
    ),
    Setting(
        "concept_ablation",
        ("--localise", "random", "--top", "48", *options(mode="zero")),
        "48 neurons",
        DENSE,
        "random",
    ),
    Setting(
        "concept_ablation",
        ("--localise", "expert_attribution", "--top", "8", *options(mode="zero")),
        "48 neurons in 8 experts",
        MOE,
    ),
    Setting(
        "concept_ablation", ("--localise", "random", "--top", "48", *options(mode="zero")), "48 neurons", MOE, "random"
    ),
    Setting("single_expert", options(lr=1e-3), "the expert of the largest gradient", MOE),
    Setting(
        "single_expert", options(lr=1e-3, attribution="affinity"), "the expert of the largest affinity", MOE, "affinity"
    ),
    Setting("single_expert", options(lr=1e-3, rank=-1), "the lowest-ranked expert", MOE, "last"),
    Setting("rmu", options(lr=1e-3, coefficient=150, alpha=100, steps=300), "L1, two down-projections", DENSE),
    Setting("rmu", options(lr=1e-3, coefficient=200, alpha=300, steps=300), "L1, two down-projections", MOE),
    Setting("adaptive_rmu", options(lr=2e-3, alpha=100, steps=300), "L1, two down-projections"),
    Setting("ssd", options(alpha=4.8)),
    Setting("projection_erasure", ("--where", "L3.mlp_out"), "L3's MLP"),
    Setting("crisp", options(lr=3e-3, beta=0.9, steps=100), "up to L2", DENSE),
    Setting("crisp", options(lr=1e-3, steps=100), "up to L2", MOE),
    Setting("causal_layers", (*TRACED[:3], "2", *options(lr=3e-4, steps=100)), "2 MLPs, traced", DENSE),
    Setting(
        "causal_layers", ("--where", "L2.mlp_out", "--where", "L3.mlp_out", *options(lr=3e-4, steps=100)), "L2, L3", MOE
    ),
    Setting("task_vector", options(lr=1e-4, alpha=3)),
    Setting("grad_ascent", options(lr=2e-4, steps=60)),
    Setting("npo", options(lr=1e-4, steps=160)),
    Setting("sae_suppression", options(count=20, retain_threshold=0.03), "features at L2"),
    Setting(
        "sae_suppression", options(count=20, retain_threshold=0.03, choice="random"), "features at L2", BOTH, "random"
    ),
    Setting("dsg", options(count=10, c=10), "features at L2"),
    Setting("neuron_adjust", options(share=30, tokens="last_token"), "30 % of neurons"),
    Setting(
        "neuron_adjust", options(share=30, tokens="last_token", choose="random"), "30 % of neurons", BOTH, "random"
    ),
    Setting("key_space_detection", where="prompts by the last key"),
    Setting("embedding_corruption", where="prompts by a classifier"),
    Setting("logit_difference", where="every prompt"),
    Setting("guard_decoding", where="prompts by a classifier"),
)
"""Every row, in the order of the table."""
