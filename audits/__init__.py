"""Audits: claims, readings, verdicts. `audit(checkpoint, base=..., concept=...)` is the front door.

An audit never imports an intervention: the judge does not know the accused.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audits.auditor import audit

__all__ = ["audit"]


def __getattr__(name: str) -> Any:
    """Load `audit` when it is asked for: it brings torch, which listing the catalogues must not."""
    if name == "audit":
        from importlib import import_module

        return import_module("audits.auditor").audit
    raise AttributeError(f"module 'audits' has no attribute {name!r}")
