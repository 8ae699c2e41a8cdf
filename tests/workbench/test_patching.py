"""Rows of a batch that each change their own place say what they would say alone."""

import pytest
import torch

from tests import zoo
from workbench.edits import HookEdit, Operator
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.patching import Budget, Patch, patch_each
from workbench.sites import Site

IDS = [5, 17, 60, 99, 23, 41, 200, 7]


def opened(name: str) -> HookedModel:
    return HookedModel(zoo.make(name), zoo.tokenizer(), name=name, check=False)


def patches_of(model: HookedModel, seed: int = 0) -> list[list[Patch]]:
    """Random values at every kind of site, one or two places a patch, and one patch that changes nothing."""
    generator = torch.Generator().manual_seed(seed)

    def patch(site: Site, *positions: int) -> Patch:
        return Patch(site, positions, torch.randn(len(positions), model.width(site), generator=generator))

    sites = [Site(layer, part) for layer in range(3) for part in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    sites += [Site(None, "embed"), *(s for s in model.taps if s.part in ("head", "mlp_act"))]
    sites += [Site(layer, "mlp_act", None, e) for layer in model.mixture_layers for e in range(2)]
    reach = {2: (6,), 1: (5, 6), 0: (3, 5, 6), None: (3, 6)}  # kept positions see these, also with a window of 4
    found = [[patch(site, position)] for site in sites for position in reach[site.layer]]
    found += [[patch(Site(0, "attn_out"), 2), patch(Site(2, "mlp_out"), 3, 6)]]
    found += [[patch(Site(1, "mlp_out"), 4), patch(Site(2, "mlp_out"), 6)]]
    found += [[patch(Site(1, "attn_out"), 5), patch(Site(1, "mlp_out"), 6)]]
    found += [[patch(Site(1, "mlp_out"), 5), patch(Site(2, "resid_pre"), 5)]]  # the later one wins
    found += [[patch(Site(1, "mlp_out"), 5), patch(Site(1, "resid_post"), 5)], []]
    return found


SHAPES = ("gpt2", "mistral", "gemma3", "gpt_neox", "qwen2_moe", "deepseek_v2", "gpt_oss", "granitemoe")
"""One of every shape: learned positions, windows, post-norms, parallel blocks, shared experts, latent attention, scaled
addends. The others are covered by the checks at a start layer and after a prefix that `doctor` makes."""


@pytest.mark.parametrize("name", SHAPES)
def test_each_row_is_what_a_whole_pass_for_it_alone_would_be(name: str) -> None:
    model = opened(name)
    patches = patches_of(model)
    under = [Patch(Site(None, "embed"), (2, 3), torch.randn(2, 32, generator=torch.Generator().manual_seed(9)))]
    quick = patch_each(model, IDS, patches, kept=[6, 7], under=under, budget=Budget(rows=8), shortcuts=True)
    alone = torch.stack(
        [patch_each(model, IDS, [one], kept=[6, 7], under=under, shortcuts=False)[0] for one in patches]
    )
    torch.testing.assert_close(quick, alone, atol=1e-5, rtol=0)
    plain = alone[-1]  # the row without patches
    changed = (alone[:-1] - plain).abs().amax(dim=(1, 2))
    in_experts = torch.tensor([bool(one) and one[0].site.expert is not None for one in patches[:-1]])
    assert (changed[~in_experts] > 1e-5).all()
    assert not model.mixture_layers or (changed[in_experts] > 1e-5).any()  # others are not sent to that expert


def test_what_all_rows_share_is_on_in_every_row() -> None:
    model = opened("llama")
    under = [Patch(Site(1, "attn_out"), (3,), torch.ones(1, 32))]
    with_it = patch_each(model, IDS, [[]], kept=[7], under=under)
    without = patch_each(model, IDS, [[]], kept=[7])
    own = patch_each(model, IDS, [under], kept=[7])
    torch.testing.assert_close(with_it, own, atol=1e-5, rtol=0)
    assert (with_it - without).abs().max() > 1e-3


def test_a_row_s_own_patch_comes_after_what_all_share() -> None:
    model = opened("llama")
    site = Site(1, "mlp_out")
    both = patch_each(
        model, IDS, [[Patch(site, (3,), torch.zeros(1, 32))]], kept=[7], under=[Patch(site, (3,), torch.ones(1, 32))]
    )
    alone = patch_each(model, IDS, [[Patch(site, (3,), torch.zeros(1, 32))]], kept=[7])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


def test_late_patches_compute_fewer_layers_and_tokens() -> None:
    model = opened("llama")
    seen: list[tuple[int, int]] = []
    for layer in range(3):
        module = model.hf.get_submodule(f"model.layers.{layer}.mlp")
        module.register_forward_hook(lambda _, __, out, layer=layer: seen.append((layer, out.shape[1])))

    def late(site: Site) -> list[tuple[int, int]]:
        seen.clear()
        patch_each(model, IDS, [[Patch(site, (6,), torch.ones(1, 32))]], kept=[7])
        assert seen[:3] == [(0, 8), (1, 8), (2, 8)]  # the text itself
        return seen[3:]

    assert late(Site(2, "attn_out")) == [(2, 2)]
    assert late(Site(1, "mlp_out")) == late(Site(1, "resid_post")) == late(Site(2, "resid_pre")) == [(2, 2)]
    assert late(Site(1, "attn_out")) == [(1, 2), (2, 2)]
    assert late(Site(2, "mlp_out")) == []


def test_blocks_are_whole_again_afterwards_also_after_an_error() -> None:
    model = opened("llama")
    before = model.run(model_batch()).logits
    with pytest.raises(RuntimeError):
        patch_each(model, IDS, [[Patch(Site(2, "attn_out"), (6,), torch.ones(1, 5))]], kept=[7])
    assert torch.equal(model.run(model_batch()).logits, before)


def model_batch():
    from workbench.tokens import pad

    return pad([IDS])


def test_what_is_put_between_two_blocks_for_all_wins_over_a_row_s_earlier_patch() -> None:
    model = opened("llama")
    under = [Patch(Site(2, "resid_pre"), (5,), torch.ones(1, 32))]
    row = [Patch(Site(1, "mlp_out"), (5,), torch.full((1, 32), 3.0))]
    quick, whole = (patch_each(model, IDS, [row], kept=[7], under=under, shortcuts=way) for way in (True, False))
    torch.testing.assert_close(quick, whole, atol=1e-5, rtol=0)


def test_with_a_hook_edit_on_whole_passes_are_run() -> None:
    model = opened("llama")
    edit = HookEdit("", {}, operators={Site(0, "mlp_out"): Operator("scale", torch.tensor(0.5))})
    row = [Patch(Site(2, "attn_out"), (6,), torch.ones(1, 32))]
    with edit.on(model):
        worn = patch_each(model, IDS, [row], kept=[7])
        whole = patch_each(model, IDS, [row], kept=[7], shortcuts=False)
    assert torch.equal(worn, whole)
    assert (worn - patch_each(model, IDS, [row], kept=[7])).abs().max() > 1e-3


def test_results_are_in_the_order_asked_and_progress_is_told() -> None:
    model = opened("olmoe")
    patches, told = patches_of(model), []
    forth = patch_each(model, IDS, patches, kept=[7], budget=Budget(rows=7), progress=lambda *p: told.append(p))
    back = patch_each(model, IDS, patches[::-1], kept=[7], budget=Budget(rows=5)).flip(0)
    torch.testing.assert_close(forth, back, atol=1e-5, rtol=0)
    assert told[-1] == (len(patches), len(patches))
    assert [b[0] - a[0] for a, b in zip(told, told[1:], strict=False)] == [7] * (len(told) - 2) + [
        len(patches) - told[-2][0]
    ]


def test_a_small_memory_makes_small_batches_and_never_none() -> None:
    model = opened("llama")
    assert Budget(memory=1).rows_for(model, 8, 1) == 1
    wide = Budget(memory=1 << 24, rows=10_000)
    assert wide.rows_for(model, 64, 1) < wide.rows_for(model, 8, 1)
    assert wide.rows_for(model, 8, 8) < wide.rows_for(model, 8, 1)


@pytest.mark.parametrize(("position", "kept"), [(8, [7]), (-1, [7]), (3, [8]), (3, [])])
def test_places_outside_the_text_are_refused(position: int, kept: list[int]) -> None:
    with pytest.raises(BadInput, match="within the 8 tokens"):
        patch_each(opened("llama"), IDS, [[Patch(Site(0, "mlp_out"), (position,), torch.ones(1, 32))]], kept=kept)
