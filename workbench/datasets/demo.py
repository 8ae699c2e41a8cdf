"""Concepts of the embedded world: `demo:chemistry`, `demo:musicians`, ..."""

from workbench.concepts import Concept
from workbench.datasets.spec import Wanted
from workbench.demo.world import concept


def load(wanted: Wanted) -> Concept:
    """A topic or a group of entities of the world with seed 0, whole.

    Raises:
        BadInput: for a concept the world does not have.
    """
    return concept(wanted.which)
