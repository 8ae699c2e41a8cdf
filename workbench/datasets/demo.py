"""Concepts of the embedded world: `demo:chemistry`, `demo:musicians`, ..."""

from workbench.concepts import Concept
from workbench.demo.world import concept


def load(which: str) -> Concept:
    """A topic or a group of entities of the world with seed 0.

    Raises:
        BadInput: for a concept the world does not have.
    """
    return concept(which)
