"""A claim's small curve is its own reading, without the control facts; a claim with one number has none."""

import math

import numpy as np
import pytest

from workbench.sparks import spark_of
from workbench.trace import Trace

LAYERS = ("embed", "L0", "L1")


def by_layer(values, **notes) -> Trace:
    array = np.array(values, dtype=float)
    facts = tuple(f"{i}: x" for i in range(array.shape[1]))
    return Trace("t", array, ("layer", "fact"), "share", {"layer": LAYERS[: len(array)], "fact": facts}, notes)


def reading(**traces):
    """role__key -> trace, dots as `_of_`."""
    found = {tuple(name.split("__")): trace for name, trace in traces.items()}
    return lambda role, key: found.get((role, key.replace(".", "_of_")))


def test_layers_without_the_control_facts() -> None:
    trace = by_layer([[0, 0, 1], [1, 0, 1], [1, 1, 1]], n_facts=2)
    spark = spark_of("probe", reading(checkpoint__linear_probes_of_forget=trace))
    assert spark is not None and (spark.values, spark.words) == ((0.0, 0.5, 1.0), "layers embed to 1")
    assert spark_of("lens", reading(checkpoint__linear_probes_of_forget=trace)) is None  # another claim's reading


def test_steps_are_a_mean_over_seeds() -> None:
    labels = {"seed": ("0", "1"), "step": ("0", "10"), "fact": ("0: a",)}
    trace = Trace("relearn", np.array([[[0.0], [1.0]], [[0.0], [0.0]]]), ("seed", "step", "fact"), "share", labels)
    spark = spark_of("relearn", reading(checkpoint__relearn_of_forget=trace))
    assert spark is not None and spark.values == (0.0, 0.5) and spark.along == "steps"


def of_facts(values, **notes) -> Trace:
    return Trace("a", np.array(values, float), ("fact",), "share", {"fact": tuple(map(str, range(len(values))))}, notes)


def test_bits_and_strengths() -> None:
    four, three = of_facts([1, 0, 1], n_facts=2), of_facts([1, 1, 0], n_facts=2)
    read = reading(checkpoint__accuracy_of_forget_of_quantise=four, checkpoint__accuracy_of_forget_of_quantise_3=three)
    spark = spark_of("quantise", read)
    assert spark is not None and (spark.labels, spark.values) == (("4", "3"), (0.5, 1.0))
    alone = reading(checkpoint__accuracy_of_forget_of_quantise=four)
    assert spark_of("quantise", alone) is None  # one number is no curve
    attacks = [{"edits": [{"shares": [0.1, 0.3]}], "share": share} for share in (0.25, 0.75)]
    pruned = reading(checkpoint__accuracy_of_forget_of_prune=of_facts([1], attacks=attacks))
    spark = spark_of("prune", pruned)
    assert spark is not None and (spark.labels, spark.values) == (("0.1", "0.3"), (0.25, 0.75))
    attacks.pop()
    assert spark_of("prune", pruned) is None


def test_depth_is_what_is_kept_of_the_references_loss() -> None:
    own, reference = by_layer([[0.0], [1.0], [9.0]]), by_layer([[0.01], [4.0], [4.0]])
    spark = spark_of(
        "depth", reading(checkpoint__depth_score_of_forget=own, reference__depth_score_of_forget=reference)
    )
    assert spark is not None and math.isnan(spark.values[0]) and spark.values[1:] == (0.75, 0.0)
    assert spark_of("depth", reading(checkpoint__depth_score_of_forget=own)) is None


def test_the_trace_at_the_subjects_last_token() -> None:
    labels = {"site": ("L0.resid_post", "L1.resid_post", "L0.mlp_out"), "role": ("last subject", "last prompt")}
    values = np.array([[[0.5], [9]], [[-0.1], [9]], [[7], [9]]], float)
    trace = Trace("causal_trace", values, ("site", "role", "fact"), "p", {**labels, "fact": ("0: a",)})
    spark = spark_of("causal", reading(checkpoint__causal_trace_of_forget=trace))
    assert spark is not None and spark.values == (0.5, 0.0) and spark.labels == ("0", "1")


def test_vectors_by_the_layer_they_lie_in() -> None:
    def top(**ids) -> Trace:
        named = {site.replace("_", ".", 1): found for site, found in ids.items()}
        return Trace(
            "v", np.zeros((1, 1)), ("site", "d_model"), "w", {"site": ("a",), "d_model": ("0",)}, {"top_ids": named}
        )

    base = top(**{"L0_mlp_act[1]": [1, 2], "L0_mlp_act[2]": [1, 2], "L2_mlp_act[0]": [3]})
    own = top(**{"L0_mlp_act[1]": [1, 2], "L0_mlp_act[2]": [8, 9], "L2_mlp_act[0]": [3]})
    read = reading(base__concept_vectors_of_forget=base, checkpoint__concept_vectors_of_forget=own)
    spark = spark_of("vectors", read)
    assert spark is not None and (spark.labels, spark.values) == (("0", "2"), (0.5, 1.0))


@pytest.mark.parametrize("claim", ["direct", "membership", "near", "fluency", "noise", "no such claim"])
def test_one_number_has_no_curve(claim) -> None:
    assert spark_of(claim, lambda role, key: of_facts([1, 0])) is None
