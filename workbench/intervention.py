"""`Intervention`: what every method that changes a model has, and the controls it is compared with.

A localised edit is a finding only if editing its sites moves the answers more than editing as many random sites of the
same kind does, and less of the rest than editing all of them (`workbench unlearn --controls` runs the three).
Read it as: `for name, (method, where) in method.controls(model, where).items(): method.fit(model, concept, where)`.
Does not show: that the sites hold the knowledge; a random set drawn once is one draw.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.sites import Site


class Intervention(Method):
    """A method that changes a model.

    A subclass writes `fit(model, concept, where) -> Edit`, after which the model is the same bits as before. `where` is
    a list of sites; a method that can do without gives it the default None. It may take `progress(step, loss)`.
    """

    localised: ClassVar[bool] = False
    """Whether the method acts at chosen sites, so that random sites and all sites are controls of it."""

    def controls(
        self, model: HookedModel, where: Sequence[Site] | None, seed: int = 0
    ) -> Mapping[str, tuple["Intervention", Sequence[Site] | None]]:
        """The method with random sites of the same kind and number, and with all sites of that kind.

        A method that chooses its sites or features itself overrides this with its own options.

        Raises:
            BadInput: when the method is not localised, or was given no sites.
        """
        if not self.localised:
            raise BadInput(
                f"{type(self).__name__} does not act at chosen sites, so there are no random ones to compare with: "
                "leave --controls out"
            )
        if not where:
            raise BadInput(
                f"{type(self).__name__} was not told where to act, so there are no sites to compare with random ones: "
                "give --where or --localise, or leave --controls out"
            )
        return {"random sites": (self, sites_like(model, where, seed)), "all sites": (self, all_like(model, where))}


def sites_like(model: HookedModel, where: Sequence[Site], seed: int = 0) -> list[Site]:
    """As many random sites of the same kinds, drawn without the given ones where enough others exist."""
    draw = random.Random(seed)
    found: list[Site] = []
    for kind in dict.fromkeys(kind_of(site) for site in where):
        given = [site for site in where if kind_of(site) == kind]
        pool = [site for site in sites_of_kind(model, kind) if site not in set(given)]
        pool = pool if len(pool) >= len(given) else sites_of_kind(model, kind)
        found += draw.sample(pool, min(len(given), len(pool)))
    return found


def all_like(model: HookedModel, where: Sequence[Site]) -> list[Site]:
    """Every site of the kinds given."""
    return [site for kind in dict.fromkeys(kind_of(site) for site in where) for site in sites_of_kind(model, kind)]


def kind_of(site: Site) -> tuple[str, bool]:
    """Part, and whether it is one entry of it; neurons of dense MLPs and of experts are one kind."""
    return site.part, site.index is not None


def sites_of_kind(model: HookedModel, kind: tuple[str, bool]) -> list[Site]:
    """Every site of a kind in a model, in reading order."""
    part, single = kind
    if part in ("mlp_act", "mlp_pre"):  # of single experts too, which are no module boundary
        gates = set(model.gate_sites()) if part == "mlp_pre" else set()
        sizes = {Site(s.layer, part, None, s.expert): rows.shape[0] for s, rows in model.mlps()}
        there = {site: size for site, size in sizes.items() if part == "mlp_act" or site in gates}
        return [Site(s.layer, part, i, s.expert) for s, n in there.items() for i in range(n)] if single else list(there)
    if part == "expert":
        return [Site(layer, part, i) for layer, m in sorted(model.anatomy.mixtures.items()) for i in range(m.n_experts)]
    wholes = sorted((site for site in model.taps if site.part == part), key=_order)
    if not single:
        return wholes
    return [Site(s.layer, part, i) for s in wholes for i in range(_entries(model, s))]


def _order(site: Site) -> tuple[Any, ...]:
    return (-1 if site.layer is None else site.layer, site.expert or 0)


def _entries(model: HookedModel, whole: Site) -> int:
    """How many indexed sites a part has."""
    width = model.width(whole)
    first = model.span(Site(whole.layer, whole.part, 0, whole.expert))
    assert first is not None
    return width // (first[1] - first[0])
