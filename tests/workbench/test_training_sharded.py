"""Two processes that hold a share each train as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.errors import BadInput
from workbench.training import TrainingOptions, train
from workbench.training_sharded import is_sharded, require_gradients, require_shardable

SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from safetensors.torch import save_file
from tests import zoo
from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.objectives import answer_loss, answer_logits, labelled
from workbench.tokens import encode
from workbench.training import StopRule, TrainingOptions, train

planted, rank = plant("llama"), int(os.environ.get("RANK", 0))
items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
seen = []

def row_mean(hf, batch):
    seen.append(sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in hf.parameters()))
    again = answer_logits(hf, batch).logits.logsumexp(-1).mean()  # a second pass, which unembeds a few positions
    return answer_loss(hf, batch).total.mean() + again

few = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.self_attn.q_proj.weight"]
for arch, options, trainable in (
    ("llama", TrainingOptions(steps=4, batch_size=4, accumulate=2, lr=1e-3, weight_decay=0.1, processes="fsdp"), None),
    ("olmoe", TrainingOptions(steps=4, batch_size=4, lr=1e-3, max_grad_norm=0.01, processes="fsdp"), None),
    ("gemma2", TrainingOptions(steps=3, batch_size=4, lr=1e-3, gradient_checkpointing=True, processes="fsdp"), None),
    ("few", TrainingOptions(steps=3, batch_size=4, lr=1e-3, precision="bf16", processes="fsdp"), few),
):
    model = zoo.make("llama" if arch == "few" else arch)
    model.requires_grad_(arch != "few")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    objects, flags = [id(p) for p in model.parameters()], [p.requires_grad for p in model.parameters()]
    looked = []

    def evaluate(step):
        looked.append(float(sum((p.detach() - before[n]).abs().sum() for n, p in model.named_parameters())))
        return looked[-1]

    stop = StopRule(mode="min", best=arch == "gemma2", patience=9)
    rule = {"evaluate_at": [0, 2, 3], "evaluate": evaluate, "stop": stop}
    log = train(model, items, labelled, row_mean, options, trainable=trainable, **rule)
    assert objects == [id(p) for p in model.parameters()] and not type(model).__name__.startswith("FSDP")
    assert flags == [p.requires_grad for p in model.parameters()] and all(p.grad is None for p in model.parameters())
    assert looked[0] == 0 < looked[1] < looked[2]
    tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
    if trainable:
        assert {n for n in tensors if not torch.equal(tensors[n], before[n])} == set(few)
    if arch == "gemma2":
        assert all(torch.equal(tensors[n], before[n]) for n in tensors)  # the best evaluation was that of step 0
    if rank == int(sys.argv[3]):
        shares = torch.tensor([max(seen), sum(t.numel() for t in tensors.values())])
        extra = {"losses": torch.tensor(log.losses), "looked": torch.tensor(looked), "shares": shares}
        save_file({**tensors, **extra}, Path(sys.argv[2]) / f"{arch}.safetensors")
    seen.clear()

options = TrainingOptions(steps=2, batch_size=4, processes="fsdp")
for words, more in (("nan", {}), ("other", {}), ("keep", {"keep": Path(sys.argv[2]) / "kept"})):
    model, other = zoo.make("llama"), zoo.make("llama")

    def loss(hf, batch):
        if words == "other":
            return answer_loss(other, batch).mean
        return row_mean(hf, batch) * (float("nan") if words == "nan" and rank == int(sys.argv[3]) else 1.0)

    try:
        train(model, items, labelled, loss, options, **more)
    except (BadInput, RunError) as error:
        print(type(error).__name__, error)
"""


def run(folder: Path, processes: int, rank: int) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """What one rank of so many saved, and what all printed."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = str(Path(__file__).parents[2])
    started = []
    for number in range(processes):
        place = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(processes)}
        environment = {**os.environ, **(place if processes > 1 else {})}
        words = [sys.executable, "-c", SCRIPT, root, str(folder), str(rank)]
        started.append(
            subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = []
    for process in started:
        out, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        said.append(out)
    return {arch: load_file(folder / f"{arch}.safetensors") for arch in ("llama", "olmoe", "gemma2", "few")}, said


@pytest.mark.slow
def test_two_processes_with_a_share_each_are_one(tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "alone", 1, 0)
    for rank in (0, 1):
        together, said = run(tmp_path / f"rank{rank}", 2, rank)
        for arch in alone:
            mine, whole = together[arch].pop("shares").tolist()
            assert 0.45 * whole < mine < 0.55 * whole
            close = {"rtol": 2e-2, "atol": 2e-3} if arch == "few" else {"rtol": 1e-3, "atol": 2e-5}  # few: in bfloat16
            for name, tensor in together[arch].items():
                torch.testing.assert_close(tensor, alone[arch][name], **close, msg=f"{arch} {name}")
        for text in said:
            assert "RunError The loss became nan at step 1 of 2" in text
            assert "BadInput The loss does not depend on the model it was handed" in text
            assert "BadInput `keep` is for one process" in text


def test_what_cannot_be_sharded_is_refused() -> None:
    plain = TrainingOptions(processes="fsdp")
    for options, parts, kept, match in (
        (plain.model_copy(update={"optimizer": "muon"}), (), False, "AdamW alone: leave optimizer='muon' out"),
        (plain, ["model.layers.0.mlp.experts.down_proj"], False, "entries or experts of model.layers.0"),
        (plain, (), True, "`keep` is for one process"),
    ):
        with pytest.raises(BadInput, match=match):
            require_shardable(options, parts, kept)
    require_shardable(plain, (), False)


def test_one_process_trains_the_model_itself() -> None:
    def results(processes: str) -> tuple[torch.Tensor, tuple[float, ...]]:
        layer = _one()
        options = TrainingOptions(steps=2, batch_size=1, processes=processes)
        log = train(layer, [1.0, 2.0], _row, _loss, options)
        return torch.cat([p.detach().flatten() for p in layer.parameters()]), log.losses

    (fsdp, losses), (whole, same) = results("fsdp"), results("whole")
    assert torch.equal(fsdp, whole) and losses == same


def _one() -> torch.nn.Module:
    from tests import zoo

    return zoo.make("llama")


def _row(rows: list[float]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(rows)}


def _loss(hf: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(p.square().sum() for p in hf.parameters()) * batch["x"].mean()


def test_a_loss_of_another_model_is_told_by_its_gradients() -> None:
    layer = torch.nn.Linear(2, 1)
    assert not is_sharded(layer)
    with pytest.raises(BadInput, match="processes='whole'"):
        require_gradients(layer)
    layer(torch.ones(2)).sum().backward()
    require_gradients(layer)
