"""Values at sites of passes that somebody else makes: a loss can so read the inside of the passes it is made of.

`HookedModel.run` makes a pass of its own; inside a training loop the pass is the loss's. `watched` notes down, with the
graph, what the sites held in the last pass made inside its block, and which tokens of it were no padding.
Does not show: earlier passes of the block.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from workbench.errors import RunError
from workbench.hooks import Keep, hooked
from workbench.model import HookedModel
from workbench.sites import Site


@dataclass(frozen=True, eq=False)
class Watched:
    """The last pass."""

    acts: dict[Site, Tensor] = field(default_factory=dict)
    """Value of every site as the architecture hands it out; inside a mixture (row * pos, width)."""
    given: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the pass."""

    @property
    def mask(self) -> Bool[Tensor, "row pos"]:
        """True where there was a token.

        Raises:
            RunError: when no pass was made.
        """
        if "attention_mask" not in self.given:
            raise RunError("No pass with an attention mask was made while it was watched, so there is nothing to read")
        return self.given["attention_mask"].bool()

    def note(self, _: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember what a pass was given."""
        self.given.clear()
        self.given.update(kwargs)


@contextlib.contextmanager
def watched(model: HookedModel, sites: Sequence[Site]) -> Iterator[Watched]:
    """Watch whole sites at module boundaries in the passes that are made inside the block.

    Raises:
        BadInput: for a site that the architecture does not have.
    """
    seen = Watched()
    with contextlib.ExitStack() as hooks:
        hooks.callback(model.hf.register_forward_pre_hook(seen.note, with_kwargs=True).remove)
        for site in sites:
            hooks.enter_context(hooked(model.hf, model.tap(site), Keep(seen.acts, site)))
        yield seen
