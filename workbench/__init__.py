"""The unlearning workbench: was the knowledge removed from the parameters, or only kept from the mouth?

Six nouns (`Site`, `Concept`, `Checkpoint`, `Trace`, `Edit`, `Evidence`) and three verbs (`look`, `fit`, `judge`).
Names load when they are first used, so that the command line answers at once; torch, transformers and
transformer_lens load only when a model is opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.concepts import Concept, Fact, FactSet
    from workbench.datasets import load_concept
    from workbench.errors import BadInput, RunError
    from workbench.evidence import AuditReport, Estimate, Evidence
    from workbench.sites import Site, parse_sites
    from workbench.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "AuditReport",
    "BadInput",
    "Checkpoint",
    "Concept",
    "Estimate",
    "Evidence",
    "Fact",
    "FactSet",
    "RunError",
    "Site",
    "Trace",
    "load_concept",
    "parse_sites",
]

_HOMES = {
    "AuditReport": "evidence",
    "BadInput": "errors",
    "Checkpoint": "checkpoint",
    "Concept": "concepts",
    "Estimate": "evidence",
    "Evidence": "evidence",
    "Fact": "concepts",
    "FactSet": "concepts",
    "RunError": "errors",
    "Site": "sites",
    "Trace": "trace",
    "load_concept": "datasets",
    "parse_sites": "sites",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(import_module(f"workbench.{_HOMES[name]}"), name)
