"""How much faster are probes of all layers and relations at once than scikit-learn, one regression after another?

    python -m bench.linear_probes

Prints seconds for the same regressions (same objective, both to the same gradient where scikit-learn gets there) on
states of several shapes, their ratio, and how far the probabilities lie apart. Random states with planted answers.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes.probe_training import TOLERANCE, fit

REPEATS = 3
L2 = 0.1


class Shape(NamedTuple):
    """A set of regressions."""

    name: str
    layers: int
    rows: int
    width: int
    relations: int
    answers: int


SHAPES = (
    Shape("demo model, 5 relations", 7, 200, 96, 5, 12),
    Shape("GPT-2 small, 6 relations", 13, 360, 768, 6, 10),
    Shape("GPT-2 small, 1 relation", 13, 300, 768, 1, 10),
    Shape("GPT-2 small, 2 answers", 13, 300, 768, 1, 2),
)


def made(shape: Shape) -> tuple[Float[Tensor, "layer row d"], Int[Tensor, " row"], Bool[Tensor, "row class"]]:
    """Standardised states in which the answers lie along directions of their own."""
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(shape.rows)
    relation = number % shape.relations
    label = relation * shape.answers + number // shape.relations % shape.answers
    classes = shape.relations * shape.answers
    states = torch.randn(shape.layers, shape.rows, shape.width, generator=generator)
    states = states * torch.logspace(0, -2, shape.width) + 0.1 * torch.randn(classes, shape.width)[label]
    states = states @ torch.linalg.qr(torch.randn(shape.width, shape.width, generator=generator))[0]
    states = (states - states.mean(dim=1, keepdim=True)) / states.std(dim=1, keepdim=True)
    return states, label, (torch.arange(classes) // shape.answers)[None] == relation[:, None]


def with_scikit_learn(
    states: Float[Tensor, "layer row d"], label: Int[Tensor, " row"], choices: Bool[Tensor, "row class"], tol: float
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Layer, rows and probabilities of every regression; for two classes the same objective needs half the C."""
    groups, found = choices.unique(dim=0), []
    for layer, state in enumerate(states.double().numpy()):
        for one in groups:
            of = (choices == one).all(dim=1).numpy()
            strength = 1 / L2 if int(one.sum()) > 2 else 2 / L2
            reader = LogisticRegression(C=strength, tol=tol, max_iter=5000).fit(state[of], label.numpy()[of])
            found.append((layer, of, reader.predict_proba(state[of])))
    return found


def seconds(work: Callable[[], object]) -> float:
    """Best of a few, in seconds of this process (other work on the machine does not count)."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def apart(shape: Shape) -> float:
    """Largest difference of any probability from scikit-learn's."""
    states, label, choices = made(shape)
    weight, bias, unfinished = fit(states, label, choices, L2)
    assert not unfinished
    said = (states @ weight + bias[:, None]).masked_fill(~choices, -torch.inf).softmax(dim=-1).numpy()
    worst = 0.0
    for layer, of, theirs in with_scikit_learn(states, label, choices, 1e-8):
        columns = choices[torch.from_numpy(of)][0].numpy()
        worst = max(worst, float(np.abs(said[layer][of][:, columns] - theirs).max()))
    return worst


def main() -> None:
    """Check and time."""
    torch.set_num_threads(1)
    print(f"{'':26}{'ours':>9}{'sklearn':>9}{'ratio':>7}{'sklearn, tol 1e-4':>19}{'ratio':>7}{'apart':>9}")
    for shape in SHAPES:
        given = made(shape)
        ours = seconds(lambda given=given: fit(*given, L2))
        same = seconds(lambda given=given: with_scikit_learn(*given, TOLERANCE))
        loose = seconds(lambda given=given: with_scikit_learn(*given, 1e-4))
        times = f"{ours:9.3f}{same:9.3f}{same / ours:6.1f}x{loose:19.3f}{loose / ours:6.1f}x"
        print(f"{shape.name:26}{times}{apart(shape):9.1e}")


if __name__ == "__main__":
    main()
