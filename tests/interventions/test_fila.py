"""Where FILA's adapters begin: the stored numbers, and what the formula promises."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interventions.gradient.fila import beginning, row_weights

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def stored():
    (record,) = json.loads((GOLDEN / "fila.json").read_text())["records"]
    return record, load_file(GOLDEN / "fila.safetensors")


def begun(record, tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    given = record["arguments"]
    forget, retain = tensors["g2_forget"] / given["forget_count"], tensors["g2_retain"] / given["retain_count"]
    rows = row_weights(forget, retain)
    return rows, *beginning(tensors["W"], rows, given["rank"], given["lora_scaling"])


def test_it_agrees_with_the_stored_numbers(stored) -> None:
    record, tensors = stored
    rows, up, down = begun(record, tensors)
    told, close = record["independent_float64"], record["tolerance"]["float64"]
    assert record["arguments"]["eps"] == 1e-5
    torch.testing.assert_close(rows, torch.tensor(told["row_weight"], dtype=torch.float64), **close)
    torch.testing.assert_close(up @ down, torch.tensor(told["BA"], dtype=torch.float64), **close)
    rest = tensors["W"] - record["arguments"]["lora_scaling"] * up @ down
    torch.testing.assert_close(rest, torch.tensor(told["residual_W"], dtype=torch.float64), **close)


def test_of_its_rank_nothing_is_nearer_where_rows_weigh_as_they_matter(stored) -> None:
    record, tensors = stored
    rows, up, down = begun(record, tensors)
    scale, rank, weight = record["arguments"]["lora_scaling"], record["arguments"]["rank"], tensors["W"]

    def missed(product: torch.Tensor) -> float:
        return float((rows[:, None] * (weight - product)).norm())

    mine = missed(scale * up @ down)
    values = torch.linalg.svdvals(rows[:, None] * weight)
    assert mine == pytest.approx(float(values[rank:].norm()), rel=1e-4)
    left, plain, right = torch.linalg.svd(weight, full_matrices=False)
    assert missed((left[:, :rank] * plain[:rank]) @ right[:rank]) > 1.05 * mine
    torch.testing.assert_close(up.norm(dim=0) > 0, torch.ones(rank, dtype=torch.bool))


def test_a_row_that_matters_to_the_forget_facts_alone_is_held_first() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    forget, retain = torch.full((6, 8), 1e-6), torch.full((6, 8), 1e-3)
    forget[2] = 1.0
    rows = row_weights(forget, retain)
    assert int(rows.argmax()) == 2 and float(rows[2]) > 100 * float(rows[0])
    up, down = beginning(weight, rows, 1, 1.0)
    missed = (weight - up @ down).norm(dim=1) / weight.norm(dim=1)
    assert float(missed[2]) < 1e-3 < 0.2 < float(missed[[0, 1, 3, 4, 5]].min())


def test_rows_that_nothing_reaches_are_left_alone() -> None:
    weight = torch.ones(3, 4)
    rows = row_weights(torch.zeros(3, 4), torch.ones(3, 4))
    up, down = beginning(weight, rows, 2, 2.0)
    assert torch.equal(up @ down, torch.zeros(3, 4))
