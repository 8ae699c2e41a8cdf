"""Two processes train as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.errors import BadInput
from workbench.training import TrainingOptions
from workbench.training_processes import average_gradients, averaged, require_processes

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from safetensors.torch import save_file
from workbench.demo.planted import plant
from workbench.errors import BadInput, RunError
from workbench.objectives import answer_loss, labelled
from workbench.tokens import encode
from workbench.training import StopRule, TrainingOptions, train

def row_mean(hf, batch):
    trunk = hf.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    return answer_loss(hf, batch).total.mean() + trunk.square().mean()  # two passes, one of them of a part only

for arch, options in (
    ("llama", TrainingOptions(steps=4, batch_size=4, accumulate=2, lr=1e-3, weight_decay=0.1)),
    ("olmoe", TrainingOptions(steps=4, batch_size=4, lr=1e-3, max_grad_norm=0.01)),
):
    planted = plant(arch)
    items = [encode(planted.tokenizer, fact) for fact in planted.concept.never_taught]
    rule = {"evaluate_at": [2, 4], "evaluate": float, "stop": StopRule(mode="max", best=True)}
    log = train(planted.model, items, labelled, row_mean, options, **rule)
    if int(__import__("os").environ.get("RANK", 0)) == int(sys.argv[3]):
        tensors = {name: p.detach().clone() for name, p in planted.model.named_parameters()}
        save_file({**tensors, "losses": torch.tensor(log.losses)}, Path(sys.argv[2]) / f"{arch}.safetensors")

def poisoned(hf, batch):
    rank = int(__import__("os").environ.get("RANK", 0))
    return row_mean(hf, batch) * (float("nan") if rank == int(sys.argv[3]) else 1.0)

try:
    train(planted.model, items, labelled, poisoned, options)
except RunError as error:
    print("RUN", error)
try:
    train(planted.model, items, labelled, row_mean, options, keep=Path(sys.argv[2]) / "kept")
except BadInput as error:
    print("BAD", error)
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
    return {arch: load_file(folder / f"{arch}.safetensors") for arch in ("llama", "olmoe")}, said


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "alone", 1, 0)
    for rank in (0, 1):
        together, said = run(tmp_path / f"rank{rank}", 2, rank)
        for arch in alone:
            for name, tensor in alone[arch].items():
                torch.testing.assert_close(together[arch][name], tensor, rtol=1e-3, atol=2e-5, msg=f"{arch} {name}")
        for text in said:  # the one that was poisoned and the other
            assert "RUN The loss became nan at step 1 of 4" in text
            assert "BAD `keep` is for one process" in text


def test_what_several_processes_cannot_do_is_refused() -> None:
    with pytest.raises(BadInput, match="sophia_published=True"):
        require_processes(2, TrainingOptions(optimizer="sophia"))
    with pytest.raises(BadInput, match="must together divide batch_size=8"):
        require_processes(2, TrainingOptions(accumulate=8))
    require_processes(1, TrainingOptions(optimizer="sophia"))


def test_one_process_needs_no_group() -> None:
    layer = torch.nn.Linear(2, 1)
    average_gradients(layer, 1)
    assert averaged(0.5, 1) == 0.5 and layer.weight.grad is None
