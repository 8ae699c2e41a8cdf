"""How much does restoring many sites in one forward pass save over one at a time, and over TransformerLens?

    python -m bench.patching

Prints, for a small random Llama, the seconds each way takes for the same restorations and their ratio. The three ways
are checked to give the same numbers before they are timed.
"""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.demo.models import demo_tokenizer
from workbench.hooks import put
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import pad

LAYERS, LENGTH, REPEATS = 6, 16, 3


def subject() -> HookedModel:
    """A random Llama of the demo's size."""
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    config._attn_implementation = "eager"
    return HookedModel(LlamaForCausalLM(config), tokenizer, name="random llama")


def batched(model: HookedModel, clean: list[int], corrupt: list[int], size: int) -> Float[Tensor, "site vocab"]:
    """Every (layer, position) restored, `size` restorations a forward pass; the last position's logits."""
    sites = [Site(layer, "resid_post") for layer in range(LAYERS)]
    acts = model.run(pad([clean]), read=sites, logits=False).acts
    cells = [(site, position) for site in sites for position in range(LENGTH)]
    found = []
    for start in range(0, len(cells), size):
        part = cells[start : start + size]
        rewrites = {}
        for site in {site for site, _ in part}:
            rows = torch.tensor([i for i, (s, _) in enumerate(part) if s == site])
            positions = torch.tensor([p for s, p in part if s == site])
            rewrites[site] = put(rows, positions, acts[site][0, positions])
        logits = model.run(pad([corrupt] * len(part)), rewrite=rewrites).logits
        assert logits is not None
        found.append(logits[:, -1])
    return torch.cat(found)


def with_transformer_lens(model: HookedModel, clean: list[int], corrupt: list[int]) -> Float[Tensor, "site vocab"]:
    """The same through TransformerLens's hooks, one forward pass a site."""
    bridge = model.lens.bridge
    names = [f"blocks.{layer}.hook_out" for layer in range(LAYERS)]
    _, cache = bridge.run_with_cache(torch.tensor([clean]), names_filter=names)
    found = []
    for name in names:
        for position in range(LENGTH):

            def restore(value: Tensor, hook: object, name: str = name, position: int = position) -> Tensor:  # noqa: ARG001
                value[:, position] = cache[name][:, position]
                return value

            logits = bridge.run_with_hooks(torch.tensor([corrupt]), fwd_hooks=[(name, restore)])
            found.append(logits[0, -1])
    return torch.stack(found)


def seconds(work: Callable[[], object]) -> float:
    """Best of a few."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@torch.no_grad()
def main() -> None:
    """Check and time."""
    torch.set_num_threads(1)
    model = subject()
    generator = torch.Generator().manual_seed(1)
    clean, corrupt = (torch.randint(5, 200, (LENGTH,), generator=generator).tolist() for _ in range(2))
    ways: dict[str, Callable[[], Float[Tensor, "site vocab"]]] = {
        "ours, 96 a pass": lambda: batched(model, clean, corrupt, 96),
        "ours, one by one": lambda: batched(model, clean, corrupt, 1),
        "TransformerLens hooks": lambda: with_transformer_lens(model, clean, corrupt),
    }
    results = {name: way() for name, way in ways.items()}
    first = results["ours, 96 a pass"]
    for name, result in results.items():
        torch.testing.assert_close(result, first, atol=1e-4, rtol=0, msg=f"{name} disagrees")
    times = {name: seconds(way) for name, way in ways.items()}
    print(f"{LAYERS * LENGTH} restorations, {LAYERS} layers, width 96, {LENGTH} tokens, one thread")
    for name, spent in times.items():
        print(f"{name:24} {spent:8.3f} s   {spent / times['ours, 96 a pass']:5.1f}x")


if __name__ == "__main__":
    main()
