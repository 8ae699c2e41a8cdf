"""What do our hooks cost, next to plain hooks, TransformerLens and nnsight, and what does patching in batches save?

    python -m bench.hooks

(a) reads the residual stream of every layer for 64 rows of 32 tokens; (b) restores 1,008 sites of a corrupted text, one
by one with TransformerLens's `patching`, and through `patch_each`. All ways are checked to give the same numbers before
they are timed. Times are CPU seconds of the best of several interleaved rounds, so that a busy machine hurts all alike;
peak memory is what a fresh process needs beyond the loaded model.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import tqdm
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench import memory
from workbench.demo.models import demo_tokenizer
from workbench.model import HookedModel
from workbench.patching import Patch, patch_each
from workbench.sites import Site
from workbench.tokens import pad

LAYERS, WIDTH, ROWS, LENGTH, TEXT, ROUNDS = 4, 256, 64, 32, 84, 7
PARTS = ("resid_pre", "attn_out", "mlp_out")

Acts = Float[Tensor, "layer row pos d_model"]


def subject() -> HookedModel:
    """A random Llama."""
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        attn_implementation="eager",
    )
    return HookedModel(LlamaForCausalLM(config), tokenizer, name="random llama")


def texts(rows: int, length: int, seed: int = 1) -> list[list[int]]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 200, (rows, length), generator=generator).tolist()


def read_ours(model: HookedModel, ids: Tensor) -> Acts:
    """`HookedModel.run`."""
    sites = [Site(layer, "resid_post") for layer in range(LAYERS)]
    acts = model.run(pad(ids.tolist()), read=sites).acts
    return torch.stack([acts[site] for site in sites])


def read_plain(model: HookedModel, ids: Tensor) -> Acts:
    """Forward hooks on the Hugging Face model, by hand."""
    kept: dict[int, Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _, __, out, i=i: kept.update({i: out}))
        for i, block in enumerate(model.hf.model.layers)
    ]
    model.hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack([kept[i] for i in range(LAYERS)])


def read_bridge(model: HookedModel, ids: Tensor) -> Acts:
    """TransformerLens, `run_with_cache` with a filter (without one it keeps everything)."""
    assert model.lens is not None
    names = [f"blocks.{layer}.hook_out" for layer in range(LAYERS)]
    _, cache = model.lens.bridge.run_with_cache(ids, names_filter=names)
    return torch.stack([cache[name] for name in names])


def read_nnsight(model: HookedModel, ids: Tensor) -> Acts:
    """nnsight, one trace."""
    import nnsight

    wrapped = _wrapped(model)
    with wrapped.trace(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False):
        kept = nnsight.save([block.output for block in wrapped.model.layers])
    return torch.stack(list(kept))


def _wrapped(model: HookedModel) -> object:
    """Nnsight's view of the model, made once."""
    import nnsight

    if not hasattr(model, "nnsight"):
        model.nnsight = nnsight.NNsight(model.hf)
    return model.nnsight


READERS = {"ours": read_ours, "plain hooks": read_plain, "TransformerBridge": read_bridge, "nnsight": read_nnsight}


def patch_ours(model: HookedModel, clean: list[int], corrupt: list[int]) -> Float[Tensor, "part layer pos"]:
    """Every (part, layer, position) restored, through `patch_each`."""
    sites = [Site(layer, part) for part in PARTS for layer in range(LAYERS)]
    acts = model.run(pad([clean]), read=sites, logits=False).acts
    patches = [[Patch(site, (p,), acts[site][0, [p]])] for site in sites for p in range(TEXT)]
    found = patch_each(model, corrupt, patches, kept=[TEXT - 1], measure=_metric_of_rows)
    return found.view(len(PARTS), LAYERS, TEXT)


def patch_one_by_one(model: HookedModel, clean: list[int], corrupt: list[int]) -> Float[Tensor, "part layer pos"]:
    """TransformerLens's `patching`: a forward pass a site."""
    from transformer_lens import patching

    patching.tqdm = partial(tqdm.tqdm, disable=True)

    assert model.lens is not None
    bridge, kinds = model.lens.bridge, (patching.get_act_patch_resid_pre, patching.get_act_patch_attn_out)
    _, cache = bridge.run_with_cache(torch.tensor([clean]), names_filter=_is_patched)
    metric: Callable[[Tensor], Tensor] = lambda logits: logits[0, -1, 7] - logits[0, -1, 11]  # noqa: E731
    every = (*kinds, patching.get_act_patch_mlp_out)
    return torch.stack([kind(bridge, torch.tensor([corrupt]), cache, metric) for kind in every])


def _is_patched(name: str) -> bool:
    """Names that hold what `patching` restores, under any of their aliases."""
    return name.endswith(("hook_in", "hook_out", "hook_resid_pre", "hook_attn_out", "hook_mlp_out"))


def _metric_of_rows(logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
    return logits[:, 0, 7] - logits[:, 0, 11]


def best_of(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, the best of several rounds in turn."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def peak_of(reader: str) -> float:
    """Megabytes that a fresh process needs for one reading, beyond the loaded model."""
    done = subprocess.run([sys.executable, "-m", "bench.hooks", reader], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["megabytes"])


@torch.no_grad()
def measure_peak(reader: str) -> None:
    """In a process of its own: warm up on one row, then read everything."""
    torch.set_num_threads(1)
    model, ids = subject(), torch.tensor(texts(ROWS, LENGTH))
    READERS[reader](model, ids[:1, :4])
    print(json.dumps({"megabytes": memory.peak_of(lambda: READERS[reader](model, ids))}))


@torch.no_grad()
def main() -> None:
    """Check and measure."""
    torch.set_num_threads(1)
    model, ids = subject(), torch.tensor(texts(ROWS, LENGTH))
    results = {name: reader(model, ids) for name, reader in READERS.items()}
    for name, result in results.items():
        torch.testing.assert_close(result, results["plain hooks"], atol=1e-5, rtol=0, msg=f"{name} disagrees")
    times = best_of({name: partial(reader, model, ids) for name, reader in READERS.items()}, ROUNDS)
    print(f"(a) residual stream of {LAYERS} layers, width {WIDTH}, {ROWS} x {LENGTH} tokens, one thread")
    for name, spent in times.items():
        ratio = spent / times["plain hooks"]
        print(f"    {name:20} {spent * 1e3:8.1f} ms  {ratio:5.2f}x plain hooks   peak +{peak_of(name):6.1f} MB")
    clean, corrupt = texts(2, TEXT, seed=2)
    corrupt = clean[:8] + corrupt[8:14] + clean[14:]
    ours, theirs = patch_ours(model, clean, corrupt), patch_one_by_one(model, clean, corrupt)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0, msg="TransformerLens's patching disagrees")
    ways = {
        "ours, in batches": partial(patch_ours, model, clean, corrupt),
        "TransformerLens, one by one": partial(patch_one_by_one, model, clean, corrupt),
    }
    spent = best_of(ways, 2)
    print(f"(b) {ours.numel():,} sites restored ({', '.join(PARTS)}; {TEXT} tokens)")
    for name, seconds in spent.items():
        print(f"    {name:28} {seconds:8.2f} s  {seconds / spent['ours, in batches']:5.1f}x ours")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure_peak(sys.argv[1])
    else:
        main()
