"""`compare` on planted changes: it finds them, of the right size and rank and in the right place, and nothing else."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.checkpoint import Checkpoint
from workbench.compare import CompareOptions, _read, compare
from workbench.comparison import OUTSIDE, Comparison
from workbench.errors import BadInput
from workbench.figures_style import table_of
from workbench.shards import INDEX, SINGLE, Shards, open_shards
from workbench.tensor_change import change_of, digest_of, spectrum_of

Change = Callable[[dict[str, torch.Tensor]], object]
DOWN = "model.layers.1.mlp.down_proj.weight"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def tiny(kind: str, **more: object):
    """A small random model of an architecture."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 104, "intermediate_size": 24, **SIZES, **more})
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The checkpoint of a tiny model, written once for each kind."""
    from workbench.demo.tokenizer import build_tokenizer

    made: dict[str, Path] = {}

    def save(kind: str, **more: object) -> Path:
        key = f"{kind}{sorted(more.items())}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny") / kind
            tiny(kind, **more).save_pretrained(made[key])
            build_tokenizer(["a", "b"]).save_pretrained(made[key])
        return made[key]

    return save


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint with its stored tensors changed by a function on them."""

    def edit(source: Path, change: Change) -> Path:
        out = tmp_path / f"edited-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, out)
        tensors = load_file(out / SINGLE)
        change(tensors)
        save_file({name: t.contiguous() for name, t in tensors.items()}, out / SINGLE, {"format": "pt"})
        return out

    return edit


def compared(base: Path, other: Path, **options: object) -> Comparison:
    return compare(Checkpoint(base), Checkpoint(other), CompareOptions(**options))


def only_row(comparison: Comparison):
    assert len(comparison.changed) == 1
    return comparison.changed.iloc[0]


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- nothing where nothing was


def test_identical_folders_do_not_differ(folder):
    found = compared(folder("Llama"), folder("Llama"))
    assert set(found.table["status"]) == {"identical"} and len(found.table) == 21
    assert found.sentence() == "No tensor differs: 21 tensors hold the same bytes"
    assert found.summary()["relative_change"] == 0 and found.summary()["rank"] is None
    assert found.notes == () and len(found.changed) == 0
    assert found.table["sha256_after"].isna().all() and found.table["rank"].isna().all()
    assert (found.table["rows_changed"] == 0).all()


def test_a_sharded_copy_does_not_differ(folder, tmp_path):
    shutil.copytree(folder("Llama"), tmp_path / "copy")
    (tmp_path / "copy" / SINGLE).unlink()
    tiny("Llama").save_pretrained(tmp_path / "copy", max_shard_size="5KB")
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 3
    found = compared(folder("Llama"), tmp_path / "copy")
    assert set(found.table["status"]) == {"identical"} and len(found.table) == 21


def test_the_change_of_a_digest_is_not_the_change_of_a_tensor(folder, edited):
    same = edited(folder("Llama"), lambda tensors: None)
    assert compared(folder("Llama"), same).summary()["identical"] == 21


# ---- what was planted


def test_a_rank_one_change_is_found_where_it_is(folder, edited):
    change = random(16, 1) @ random(1, 24, seed=2)
    before = load_file(folder("Llama") / SINGLE)[DOWN]
    other = edited(folder("Llama"), lambda t: t[DOWN].add_(change))
    row = only_row(found := compared(folder("Llama"), other))
    truth = (before + change).double() - before.double()
    assert (row.tensor, row.layer, row.module, row.matrix) == (DOWN, 1, "mlp", "down_proj")
    assert pd.isna(row.expert)
    assert row["rank"] == 1 and not row.rank_is_at_least and row.top_share > 0.999999
    assert row.change_norm == pytest.approx(float(truth.norm()), rel=1e-12)
    assert row.change_norm == pytest.approx(float(change.double().norm()), rel=1e-6)
    assert row.base_norm == pytest.approx(float(before.double().norm()), rel=1e-12)
    assert row.relative_change == pytest.approx(row.change_norm / row.base_norm, rel=1e-12)
    assert row.largest_change == pytest.approx(float(truth.abs().max()), rel=1e-12)
    assert (row.entries_changed, row.share_changed, row.rows_changed, row.columns_changed) == (384, 1, 16, 24)
    assert row.stable_rank == pytest.approx(1, abs=1e-6)
    assert found.sentence().startswith("1 of 21 tensors differs, ") and found.sentence().endswith(
        "% of parameters, all in layer 1; rank 1"
    )


def test_singular_values_are_those_of_numpy(folder, edited):
    before = load_file(folder("Llama") / SINGLE)[DOWN]
    other = edited(folder("Llama"), lambda t: t[DOWN].add_(0.1 * random(16, 24)))
    row = only_row(compared(folder("Llama"), other, singular_values=5))
    truth = np.linalg.svd(load_file(other / SINGLE)[DOWN].double().numpy() - before.double().numpy(), compute_uv=False)
    assert row.singular_values == pytest.approx(truth[:5], rel=1e-12)
    assert row["rank"] == 16
    assert row.stable_rank == pytest.approx((truth**2).sum() / truth[0] ** 2, rel=1e-9)
    assert row.top_share == pytest.approx(truth[0] ** 2 / (truth**2).sum(), rel=1e-9)


def test_a_lora_like_change_has_its_rank(folder, edited):
    change = 0.01 * random(16, 4) @ random(4, 16, seed=2)
    other = edited(folder("Llama"), lambda t: t["model.layers.0.self_attn.q_proj.weight"].add_(change))
    row = only_row(compared(folder("Llama"), other))
    assert (row.layer, row.module, row.matrix, row["rank"]) == (0, "attention", "q_proj", 4)


def test_columns_set_to_zero_are_named(folder, edited):
    other = edited(folder("Llama"), lambda t: t[DOWN][:, 3:18:14].zero_())
    row = only_row(compared(folder("Llama"), other))
    assert row.columns == [3, 17] and row.columns_changed == 2
    assert row.rows == list(range(16)) and row.rows_changed == 16
    assert row.entries_changed == 32 and row["rank"] == 2


def test_many_changed_columns_are_counted_only(folder, edited):
    other = edited(folder("Llama"), lambda t: t["lm_head.weight"].add_(1))
    row = only_row(compared(folder("Llama"), other))
    assert row.rows_changed == 104 and row.rows is None
    assert row.columns == list(range(16))


def test_an_entry_of_a_norm_is_found(folder, edited):
    name = "model.layers.0.input_layernorm.weight"
    other = edited(folder("Llama"), lambda t: t[name][5].add_(0.5))
    row = only_row(compared(folder("Llama"), other))
    assert (row.module, row.rows, row.change_norm, row.entries_changed) == ("norm", [5], 0.5, 1)
    for missing in ("rank", "columns_changed", "columns", "singular_values", "stable_rank"):
        assert pd.isna(row[missing])


def test_one_expert_stored_by_itself(folder, edited):
    base = folder("Mixtral", num_local_experts=4)
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    found = compared(base, edited(base, lambda t: t[name].mul_(1.01)))
    row = only_row(found)
    assert (row.tensor, row.layer, row.expert, row.matrix) == (name, 1, 2, "w2")
    assert row.relative_change == pytest.approx(0.01, rel=1e-4)
    assert found.summary()["experts"] == [(1, 2)]
    assert "all in layer 1, expert 2; rank 16" in found.sentence()


@pytest.mark.parametrize(
    ("kind", "name", "matrix"),
    [
        ("GptOss", "model.layers.1.mlp.experts.down_proj", "down_proj"),
        ("GraniteMoe", "model.layers.1.block_sparse_moe.output_linear.weight", "output_linear"),
    ],
)
def test_one_expert_of_a_fused_tensor(folder, edited, kind, name, matrix):
    base = folder(kind, num_local_experts=4)
    change = random(24, 1) @ random(1, 16, seed=2)
    change = change if kind == "GptOss" else change.T
    found = compared(base, edited(base, lambda t: t[name][3].add_(change)))
    row = only_row(found)
    assert (row.tensor, row.layer, row.expert, row.matrix, row["rank"]) == (name, 1, 3, matrix, 1)
    assert row.change_norm == pytest.approx(float(change.norm()), rel=1e-5)
    whole = found.table[found.table["tensor"] == name]
    assert list(whole["expert"]) == [0, 1, 2, 3]
    assert list(whole["status"]) == ["identical"] * 3 + ["changed"]
    assert found.summary()["changed"] == 1 and found.summary()["experts"] == [(1, 3)]
    assert found.summary()["tensors"] == len(load_file(base / SINGLE))
    assert found.summary()["parameters"] == sum(t.numel() for t in load_file(base / SINGLE).values())


def test_a_bias_of_a_fused_expert(folder, edited):
    base = folder("GptOss", num_local_experts=4)
    name = "model.layers.0.mlp.experts.down_proj_bias"
    row = only_row(compared(base, edited(base, lambda t: t[name][1, 7].add_(1))))
    assert (row.expert, row.rows, row.matrix) == (1, [7], "down_proj bias")
    assert np.isnan(row.relative_change) or row.base_norm > 0


# ---- dtypes


def as_bf16(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})


def test_one_unit_in_the_last_place_of_bf16_counts(folder, edited):
    base = edited(folder("Llama"), as_bf16)

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN].view(torch.int16)[2, 3] += 1

    row = only_row(compared(base, edited(base, nudge)))
    assert (row.entries_changed, row.rows, row.columns, row.dtype_before) == (1, [2], [3], "BF16")
    assert row.change_norm > 0


def test_a_sign_of_zero_counts_as_a_change_of_bytes(folder, edited):
    base = edited(folder("Llama"), lambda t: t[DOWN].zero_())
    row = only_row(compared(base, edited(base, lambda t: t[DOWN][0, 0].neg_())))
    assert row.entries_changed == 1 and row.change_norm == 0 and row.relative_change == 0 and row["rank"] == 0


def test_a_rank_one_edit_rounded_to_bf16_still_has_rank_one(folder, edited):
    base = edited(folder("Llama"), as_bf16)
    change = 0.05 * random(16, 1) @ random(1, 24, seed=2)
    other = edited(base, lambda t: t.update({DOWN: (t[DOWN].float() + change).bfloat16()}))
    row = only_row(compared(base, other))
    assert row["rank"] == 1 and row.singular_values[1] > 1e-6 * row.singular_values[0]
    assert row.singular_values[1] < row.rank_threshold < 0.1 * row.singular_values[0]


def test_rounding_alone_has_no_rank(folder, edited):
    found = compared(folder("Llama"), edited(folder("Llama"), as_bf16))
    rounded = found.table[found.table["status"] == "rounded"]
    assert len(rounded) >= 14 and set(rounded["rank"].dropna()) == {0}
    assert found.summary()["changed"] == 0 and found.summary()["rounded"] == len(rounded)
    assert (found.table[found.table["module"] == "norm"]["status"] == "retyped").all()
    assert any("F32 in the base and as BF16" in note for note in found.notes)
    assert found.sentence() == f"{len(rounded)} of 21 tensors are the base's rounded to another dtype"


def test_an_edit_stands_out_from_rounding(folder, edited):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN].add_(random(16, 1) @ random(1, 24, seed=2))
        as_bf16(tensors)

    found = compared(folder("Llama"), edited(folder("Llama"), change))
    assert list(found.table[found.table["status"] == "changed"]["tensor"]) == [DOWN]
    assert found.changed.iloc[0].tensor == DOWN and found.changed.iloc[0]["rank"] == 1
    assert found.summary()["layers"] == [1]
    assert found.sentence().startswith("1 of 21 tensors differs by more than rounding, all in layer 1; rank 1; ")


def test_an_edit_smaller_than_the_rounding_is_listed_before_it(folder, edited):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        as_bf16(tensors)
        tensors[DOWN].view(torch.int16)[2, 3] += 1

    changed = compared(folder("Llama"), edited(folder("Llama"), change)).changed
    assert changed.iloc[0].tensor == DOWN and changed.iloc[0].relative_change < changed.relative_change.max()


def test_the_same_numbers_in_a_wider_dtype(folder, edited):
    base = edited(folder("Llama"), as_bf16)
    found = compared(base, edited(base, lambda t: t.update({n: v.float() for n, v in t.items()})))
    assert set(found.table["status"]) == {"retyped"} and len(found.changed) == 0
    assert found.sentence().endswith("21 the same numbers in another dtype")


def test_nan_is_said_and_left_out(folder, edited):
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN][4, 5] = float("nan")
        tensors[DOWN][6, 7] += 2

    found = compared(folder("Llama"), edited(folder("Llama"), damage))
    row = only_row(found)
    assert row.entries_changed == 2 and row.change_norm == pytest.approx(2, rel=1e-6)
    assert (row.not_finite_before, row.not_finite_after) == (0, 1)
    assert any("1 of the checkpoint" in note and DOWN in note for note in found.notes)
    assert found.summary()["not_finite"] == 1


def test_the_same_nan_on_both_sides_is_no_change(folder, edited):
    base = edited(folder("Llama"), lambda t: t[DOWN].fill_(float("nan")))
    found = compared(base, edited(base, lambda t: None))
    assert len(found.changed) == 0 and any("384 entries of the base" in note for note in found.notes)


def test_the_same_nan_in_two_dtypes_is_no_change(folder, edited):
    base = edited(folder("Llama"), lambda t: t.update({DOWN: torch.full((16, 24), float("nan"))}))
    found = compared(base, edited(base, lambda t: t.update({DOWN: t[DOWN].bfloat16()})))
    assert len(found.changed) == 0 and found.summary()["retyped"] == 1


def test_digests_are_those_of_the_bytes(folder, edited):
    import hashlib

    other = edited(folder("Llama"), lambda t: t[DOWN].mul_(2))
    row = only_row(compared(folder("Llama"), other))
    for side, sha in ((folder("Llama"), row.sha256_before), (other, row.sha256_after)):
        assert sha == hashlib.sha256(load_file(side / SINGLE)[DOWN].numpy().tobytes()).hexdigest()
    assert digest_of(torch.tensor(1.0)) == hashlib.sha256(np.float32(1).tobytes()).hexdigest()


def test_a_change_from_zero_has_no_relative_size(folder, edited):
    base = edited(folder("Llama"), lambda t: t[DOWN].zero_())
    found = compared(base, edited(base, lambda t: (t[DOWN].add_(1), t["lm_head.weight"].add_(1))))
    assert list(found.changed["tensor"]) == [DOWN, "lm_head.weight"]
    assert np.isnan(found.changed.iloc[0].relative_change) and found.changed.iloc[0].change_norm > 0


# ---- the randomised estimate


def test_the_estimate_agrees_with_the_exact_spectrum():
    matrix = (random(200, 6) * torch.tensor([5.0, 4, 3, 2, 1, 0.5])) @ random(6, 150, seed=2)
    exact = spectrum_of(matrix, CompareOptions(exact_below=150))
    estimate = spectrum_of(matrix, CompareOptions(exact_below=149))
    assert (exact.estimated, estimate.estimated) == (False, True)
    assert estimate.values[:6] == pytest.approx(exact.values[:6], rel=1e-4)
    assert estimate.rank == 6
    assert spectrum_of(matrix, CompareOptions(exact_below=0)) == estimate


def test_the_estimate_never_claims_more_than_there_is():
    matrix = random(200, 200)
    exact, estimate = (spectrum_of(matrix, CompareOptions(exact_below=n, singular_values=8)) for n in (200, 0))
    assert exact.rank == 200 and estimate.rank == 8 + 16
    assert all(low <= high * 1.0001 for low, high in zip(estimate.values, exact.values, strict=True))
    assert estimate.values == pytest.approx(exact.values, rel=0.1)


def test_the_estimate_follows_its_seed():
    first, again, other = (spectrum_of(random(90, 90), CompareOptions(exact_below=0, seed=n)) for n in (1, 1, 2))
    assert first == again and first != other


def test_the_estimate_leaves_the_global_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    spectrum_of(random(50, 50), CompareOptions(exact_below=0))
    assert torch.equal(torch.rand(1), expected)


def test_an_estimated_rank_is_called_a_lower_bound(folder, edited):
    other = edited(folder("Llama"), lambda t: t[DOWN].add_(random(16, 24)))
    found = compared(folder("Llama"), other, exact_below=8)
    assert only_row(found).rank_is_at_least and found.sentence().endswith("; rank at least 16")


def test_few_changed_columns_are_exact_however_large_the_matrix():
    before = random(300, 400)
    after = before.clone()
    after[:, [5, 9]] *= 2
    spectrum = change_of(before, after, CompareOptions(exact_below=4)).spectrum
    truth = np.linalg.svd(before.double()[:, [5, 9]].numpy(), compute_uv=False)
    assert spectrum is not None and not spectrum.estimated and spectrum.values == pytest.approx(truth, rel=1e-9)


def test_blocks_add_up(monkeypatch):
    before, after = random(50, 7), random(50, 7, seed=2)
    after[10:20] = before[10:20]
    after[47:, 2:] = before[47:, 2:]  # the last block changes two columns only
    options = CompareOptions(rank_tolerance=1e-12)  # so that the threshold is the rounding
    whole = change_of(before, after, options)
    monkeypatch.setattr("workbench.tensor_change.BLOCK", 21)
    pieces = change_of(before, after, options)
    assert pieces.rows == whole.rows and len(whole.rows) == 40 and pieces.columns == whole.columns
    assert pieces.change_norm == pytest.approx(whole.change_norm, rel=1e-12)
    assert pieces.base_norm == pytest.approx(float(before.double().norm()), rel=1e-12)
    assert pieces.spectrum.values == pytest.approx(whole.spectrum.values, rel=1e-12)
    assert pieces.spectrum.threshold == pytest.approx(whole.spectrum.threshold, rel=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (2, 3, 4)])
def test_odd_shapes_are_compared(shape):
    before = torch.zeros(shape)
    change = change_of(before, before + 1, CompareOptions())
    assert change.entries_changed == before.numel()
    assert change.change_norm == pytest.approx(before.numel() ** 0.5)


# ---- what only one side stores


def test_a_tied_unembedding_that_is_not_stored_is_no_difference(folder, edited):
    base = folder("Llama", tie_word_embeddings=True)
    other = edited(base, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    found = compared(base, other)
    assert len(found.changed) == 0 and found.summary()["only in checkpoint"] == 0
    assert any("lm_head.weight: not stored in the base, taken as tied" in note for note in found.notes)
    changed = compared(other, edited(base, lambda t: t["model.embed_tokens.weight"][9].add_(1)))
    assert set(changed.changed["tensor"]) == {"lm_head.weight", "model.embed_tokens.weight"}


def test_tensors_of_one_side_are_listed(folder, edited):
    other = edited(folder("Llama"), lambda t: t.update({"extra.weight": t.pop(DOWN)}))
    found = compared(folder("Llama"), other)
    assert found.summary()["only in base"] == found.summary()["only in checkpoint"] == 1
    assert f"Tensors only in base: {DOWN}" in found.notes
    assert found.sentence().endswith("; 1 is only in base; 1 is only in checkpoint")
    assert found.by("layer", "matrix").loc[0, "down_proj"] == 0
    assert np.isnan(found.by("layer", "matrix").loc[1, "down_proj"])


# ---- at most two tensors at a time


@pytest.mark.parametrize("kind", ["Llama", "GptOss"])
def test_at_most_one_tensor_of_each_side_is_in_memory(folder, edited, monkeypatch, kind):
    alive: list[weakref.ref[torch.Tensor]] = []
    most = []

    def watched(read):
        def wrapper(*args):
            found = read(*args)
            alive.append(weakref.ref(found))
            most.append(sum(one() is not None for one in alive))
            return found

        return wrapper

    monkeypatch.setattr("workbench.compare._read", watched(_read))
    base = folder(kind, **({"num_local_experts": 4} if kind == "GptOss" else {}))
    compared(base, edited(base, lambda t: [v.add_(1) for v in t.values()]))
    assert len(most) > 40 and max(most) == 2


def test_files_are_closed(folder):
    with open_shards(folder("Llama")) as shards:
        assert shards.shape(DOWN) == (16, 24) and shards.dtype(DOWN) == "F32"
        assert torch.equal(shards.slice(DOWN)[2], shards.tensor(DOWN)[2])
    with pytest.raises(Exception, match="closed"):
        shards.tensor(DOWN)


# ---- what cannot be compared


def test_other_architectures_are_refused(folder):
    with pytest.raises(BadInput, match="num_hidden_layers 2 against 3"):
        compared(folder("Llama"), folder("Llama", num_hidden_layers=3))
    with pytest.raises(BadInput, match="model_type llama against mixtral"):
        compared(folder("Llama"), folder("Mixtral", num_local_experts=4))


def test_other_shapes_are_refused(folder, edited):
    other = edited(folder("Llama"), lambda t: t.update({DOWN: t[DOWN][:, :20]}))
    with pytest.raises(BadInput, match=r"1 tensors .*down_proj.weight \(16, 24\) against \(16, 20\)"):
        compared(folder("Llama"), other)


def test_a_base_with_an_adapter_is_refused(folder, monkeypatch):
    checkpoint = Checkpoint(folder("Llama"))
    vars(checkpoint)["shards"] = {**checkpoint.shards, "adapter/adapter_model.safetensors": "0"}
    with pytest.raises(BadInput, match="Merge the adapter"):
        compare(Checkpoint(folder("Llama")), checkpoint)


@pytest.fixture
def sharded(folder, tmp_path) -> Path:
    shutil.copytree(folder("Llama"), tmp_path / "sharded")
    (tmp_path / "sharded" / SINGLE).unlink()
    tiny("Llama").save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    return tmp_path / "sharded"


def test_a_missing_shard_is_named(sharded):
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(BadInput, match=gone.name):
        open_shards(sharded)


def test_a_truncated_shard_is_named(sharded):
    cut = sorted(sharded.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(BadInput, match=f"{cut.name}.*cut short"):
        open_shards(sharded)


def test_an_index_that_promises_too_much_is_refused(sharded):
    index = json.loads((sharded / INDEX).read_text())
    some = next(iter(index["weight_map"].values()))
    (sharded / INDEX).write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost": some}}))
    with pytest.raises(BadInput, match="ghost"):
        open_shards(sharded)
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(BadInput, match="outside.*no file of its own folder"):
        open_shards(sharded)
    (sharded / INDEX).write_text("[]")
    with pytest.raises(BadInput, match="Cannot read"):
        open_shards(sharded)


def test_a_tensor_that_is_not_there_is_named(folder):
    with open_shards(folder("Llama")) as shards, pytest.raises(BadInput, match="no tensor 'nothing'"):
        shards.tensor("nothing")
    assert isinstance(shards, Shards)


def test_config_and_tokenizer_are_noted(folder, edited):
    from workbench.demo.tokenizer import build_tokenizer

    other = edited(folder("Llama"), lambda t: None)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    build_tokenizer(["c", "d"]).save_pretrained(other)
    notes = compared(folder("Llama"), other).notes
    assert any("rms_norm_eps (1e-06 against 0.5)" in note for note in notes)
    assert any("tokenizers differ" in note for note in notes)


# ---- laid out, drawn, stored


@pytest.fixture
def moe_change(folder, edited) -> Comparison:
    base = folder("Olmoe", num_experts=4)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.experts.2.down_proj.weight"].mul_(1.5)
        tensors["model.layers.0.self_attn.q_proj.weight"].mul_(1.001)
        tensors["lm_head.weight"][7].mul_(2)

    return compared(base, edited(base, change))


def test_pivot_pools_norms(moe_change):
    by = moe_change.by("layer", "module")
    assert list(by.index) == [0, 1, OUTSIDE]
    assert list(by.columns) == ["embedding", "attention", "mlp", "router", "norm", "unembedding"]
    assert by.loc[0, "attention"] > 0 and by.loc[1, "attention"] == 0 and by.loc[0, "mlp"] == 0
    rows = moe_change.table.query("module == 'mlp' and layer == 1")
    assert by.loc[1, "mlp"] == pytest.approx(
        np.sqrt((rows.change_norm**2).sum() / (rows.base_norm**2).sum()), rel=1e-12
    )
    assert np.isnan(by.loc[OUTSIDE, "mlp"]) and by.loc[OUTSIDE, "unembedding"] > 0
    experts = moe_change.by("layer", "expert", "tensors_changed")
    assert list(experts.columns) == [0, 1, 2, 3] and list(experts.index) == [0, 1]
    assert experts.loc[1, 2] == 1 and experts.to_numpy().sum() == 1
    assert moe_change.by("layer", "module", "entries_changed").loc[OUTSIDE, "unembedding"] == 16
    assert moe_change.by("layer", "module", "change_norm").loc[0, "attention"] == pytest.approx(
        moe_change.changed.set_index("matrix").loc["q_proj", "change_norm"]
    )
    with pytest.raises(BadInput, match="Did you mean 'layer'"):
        moe_change.by("layers")


def test_the_map_shows_change_and_sameness_apart(moe_change):
    figure = moe_change.plot()
    by_matrix, same, by_expert, same_expert = figure.data
    changed = {(by_matrix.y[i], by_matrix.x[j]) for i, j in np.argwhere(np.isfinite(by_matrix.z))}
    assert changed == {("1", "mlp down_proj"), ("0", "attention q_proj"), ("head", "unembedding lm_head")}
    grey = {(same.y[i], same.x[j]) for i, j in np.argwhere(np.isfinite(same.z))}
    assert not grey & changed and ("0", "mlp down_proj") in grey and ("embed", "embedding embed_tokens") in grey
    assert ("head", "mlp down_proj") not in grey
    assert [tuple(at) for at in np.argwhere(np.isfinite(by_expert.z))] == [(1, 2)]
    assert np.isfinite(same_expert.z).sum() == 7
    i, j = by_matrix.y.index("0"), by_matrix.x.index("attention q_proj")
    assert by_matrix.z[i][j] == pytest.approx(-3, abs=1e-4)
    assert "relative change 0.001" in by_matrix.hovertext[i][j] and "same numbers" in same.hovertext[0][0]
    table = table_of(figure)
    row = table[(table["layer"] == "0") & (table["matrix"] == "attention q_proj")].iloc[0]
    assert row["relative change"] == pytest.approx(1e-3, rel=1e-3)


def test_spectra_mark_what_is_rounding(folder, edited):
    other = edited(folder("Llama"), lambda t: t[DOWN].add_(random(16, 1) @ random(1, 24, seed=2)))
    (series,) = compared(folder("Llama"), other).plot_spectra().data
    assert series.marker.symbol[0] == "circle" and set(series.marker.symbol[1:]) == {"circle-open"}
    assert series.name == "L1 mlp down_proj"


def test_pictures_of_no_change_and_of_a_change_from_zero(folder, edited):
    same = compared(folder("Llama"), folder("Llama"))
    assert not np.isfinite(np.array(same.plot().data[0].z, dtype=float)).any()
    assert same.plot_spectra().data == ()
    base = edited(folder("Llama"), lambda t: t[DOWN].zero_())
    drawn = compared(base, edited(base, lambda t: t[DOWN].add_(1))).plot().data[0]
    assert "∞" in np.array(drawn.text).flatten()


def test_what_was_saved_is_read_again(moe_change, tmp_path):
    paths = moe_change.save(tmp_path)
    assert [path.name for path in paths] == ["comparison.html", "comparison.parquet", "comparison.json"]
    again = Comparison.load(tmp_path)
    pd.testing.assert_frame_equal(again.table, moe_change.table)
    assert again.summary() == moe_change.summary() and again.notes == moe_change.notes
    page = paths[0].read_text()
    assert moe_change.sentence() in page and page.count("Plotly.newPlot") >= 2 and 'src="http' not in page
    assert "experts.2.down_proj" in moe_change._repr_html_()
    paths[1].write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="workbench verify"):
        Comparison.load(tmp_path)


def test_shares_and_numbers_in_words():
    from workbench.comparison_words import percent, ranges

    assert [percent(share) for share in (0.0, 1e-6, 0.004, 0.5, 0.9999, 1.0, None)] == [
        *("0%", "under 0.001%", "0.4%", "50%", "over 99.9%", "100%", "not measured")
    ]
    assert ranges([5, 0, 1, 2]) == "0-2, 5" and ranges([3]) == "3"


def test_names_cannot_write_html(folder, edited):
    other = edited(folder("Llama"), lambda t: t.update({"<img src=x>": torch.ones(2)}))
    base = edited(folder("Llama"), lambda t: t.update({"<img src=x>": torch.zeros(2)}))
    found = compared(base, other)
    from workbench.comparison_words import comparison_page

    assert "<img" not in comparison_page(found) and "<img" not in found._repr_html_()
