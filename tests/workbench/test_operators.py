from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from workbench.edits import HookEdit, load_edit
from workbench.errors import BadInput
from workbench.operators import DETECTORS, OPERATORS, Gate, Operator
from workbench.sites import Site

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
AT = Site(1, "resid_post")
ENTRY = torch.arange(8) == 5
MOVED = {  # values about 0 are of the forget texts, certainly
    "keep_mean": torch.tensor([10.0]),
    "keep_std": torch.tensor([0.1]),
    "forget_mean": torch.tensor([0.0]),
    "forget_std": torch.tensor([1.0]),
}
SAE = {"encoder": torch.eye(8)[:, :2], "bias": torch.zeros(2), "decoder": torch.eye(8)[:2]}


def again(operator: Operator, folder: Path) -> Operator:
    """Saved and loaded."""
    edit = HookEdit("", {"method": "test"}, operators={AT: operator})
    edit.save(folder / "edit")
    loaded = load_edit(folder / "edit")
    assert isinstance(loaded, HookEdit) and loaded.digest == edit.digest
    return loaded.operators[AT]


CASES = {
    "project_out": (Operator("project_out", torch.eye(8)[:2]), torch.cat([0 * X[..., :2], X[..., 2:]], -1)),
    "add": (Operator("add", torch.arange(8.0)), X + torch.arange(8)),
    "add_by_position": (Operator("add_by_position", 3 * torch.eye(8)[:2]), X + 3 * torch.eye(8)[:2].repeat(3, 1)[:5]),
    "scale": (Operator("scale", torch.tensor([0.0]), torch.tensor([5])), torch.where(ENTRY, 0 * X, X)),
    "clamp": (Operator("clamp", torch.tensor(0.1)), X.clamp(max=0.1)),
    "floor": (Operator("clamp", tensors={"floor": torch.tensor(0.1)}), X.clamp(min=0.1)),
    "both": (Operator("clamp", torch.full((8,), 0.2), tensors={"floor": torch.full((8,), -0.1)}), X.clamp(-0.1, 0.2)),
    "sae_clamp": (
        Operator("sae_clamp", torch.tensor([-5.0, -7.0]), tensors=SAE, options={"kind": "relu"}),
        torch.cat([torch.where(X[..., :2] > 0, torch.tensor([-5.0, -7.0]), X[..., :2]), X[..., 2:]], -1),
    ),
    "sae_clamp_all": (
        Operator("sae_clamp_all", torch.tensor([-5.0, -7.0]), tensors=SAE, options={"kind": "relu", "lead": 1}),
        torch.cat(
            [
                torch.where(
                    (X[..., :2] > 0).any(-1, keepdim=True) & (torch.arange(5) > 0)[:, None],
                    torch.tensor([-5.0, -7.0]) + X[..., :2].clamp(max=0),
                    X[..., :2],
                ),
                X[..., 2:],
            ],
            -1,
        ),
    ),
    "sae_project": (
        Operator("sae_project", torch.tensor(2.0), tensors={"decoder": 3 * torch.eye(8)[:2], "centre": torch.ones(8)}),
        torch.cat([2 - X[..., :2], X[..., 2:]], -1),
    ),
    "sae_scale": (
        Operator("sae_scale", torch.tensor(-2.0), tensors=SAE, options={"kind": "relu"}),
        torch.cat([torch.where(X[..., :2] > 0, -2 * X[..., :2], X[..., :2]), X[..., 2:]], -1),
    ),
    "neuron_adjust": (
        Operator("neuron_adjust", index=torch.tensor([5]), tensors=MOVED | {"salt": torch.tensor([7])}),
        torch.where(ENTRY, 10 - 0.1 * X, X),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_does_what_it_says_and_survives_the_disk(name: str, tmp_path: Path) -> None:
    operator, expected = CASES[name]
    before = X.clone()
    torch.testing.assert_close(operator(X), expected)
    assert torch.equal(X, before)  # the value given is left as it is
    assert torch.equal(again(operator, tmp_path)(X), operator(X))


def test_every_operator_has_a_case() -> None:
    assert {operator.name for operator, _ in CASES.values()} == set(OPERATORS)


def test_untouched_entries_keep_their_bits_in_bf16() -> None:
    value = X.bfloat16()
    basis = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(1)))[0].T.contiguous()
    outside = torch.tensor([0.0, 0, 1, 0, 0, 0, 0, 0])
    changed = Operator("add", 1e-3 * outside)(value)
    assert changed.dtype == torch.bfloat16
    assert torch.equal(changed[..., outside == 0], value[..., outside == 0])
    wide = Operator("project_out", basis)(value.float())
    assert torch.equal(Operator("project_out", basis)(value), wide.bfloat16())  # rounded once, at the end


def test_gradients_pass_through() -> None:
    value = X.clone().requires_grad_()
    Operator("scale", torch.tensor(3.0), gate=Gate("linear", {"weight": torch.eye(8)[0]}))(value).sum().backward()
    assert torch.equal(value.grad, torch.where(X[..., :1] > 0, 3.0, 1.0).expand_as(X))


def test_a_gate_acts_on_the_tokens_where_it_fires(tmp_path: Path) -> None:
    gate = Gate("linear", {"weight": torch.eye(8)[0]}, {"bias": -0.5, "threshold": 0.25})
    gated = again(Operator("add", torch.ones(8), gate=gate), tmp_path)
    fired = X[..., 0] > 0.75
    assert fired.any() and not fired.all()
    assert torch.equal(gated(X), torch.where(fired[..., None], X + 1, X))


def test_a_gate_so_far_never_looks_at_the_future(tmp_path: Path) -> None:
    value = torch.zeros(3, 4, 8)
    value[0, 2, 0] = value[1, 0, 0] = 1
    gate = Gate("linear", {"weight": torch.eye(8)[0]}, scope="so_far")
    gated = again(Operator("add", 5 * torch.eye(8)[1], gate=gate), tmp_path)
    on = (gated(value)[..., 1] == 5).tolist()
    assert on == [[False, False, True, True], [True] * 4, [False] * 4]
    for stop in (1, 2, 3):  # what comes later changes nothing earlier
        assert torch.equal(gated(value[:, :stop]), gated(value)[:, :stop])


def test_made_ready_it_does_the_same() -> None:
    gate = Gate("linear", {"weight": torch.eye(8)[0].double()}, scope="so_far")
    for operator in (
        Operator("sae_clamp", torch.tensor(-2.0).double(), tensors=SAE, options={"kind": "relu"}, gate=gate),
        Operator("scale", torch.tensor([0.5]).double(), torch.tensor([5]), gate=gate),
    ):
        ready = operator.ready(torch.bfloat16, torch.device("cpu"))
        assert {t.dtype for t in ready.stored().values()} <= {torch.float32, torch.int64}
        assert ready.words() == operator.words() and ready.stored().keys() == operator.stored().keys()
        assert torch.equal(ready(X), operator(X)) and not torch.equal(ready(X), X)
        assert operator.tensor.dtype == torch.float64  # it was left as it is


def test_a_box_holds_what_lies_in_it_on_every_axis_or_on_a_share() -> None:
    value = torch.zeros(1, 3, 4)
    value[0, 1, 0], value[0, 2, :2] = 2, 2
    box = {"mean": torch.zeros(4), "radius": torch.ones(4)}
    assert Gate("box", box)(value).tolist() == [[True, False, False]]
    assert Gate("box", box, {"share": 0.75})(value).tolist() == [[True, True, False]]


def test_a_gate_sees_the_whole_value_also_when_the_operator_has_an_index() -> None:
    gated = Operator("add", torch.ones(1), torch.tensor([5]), gate=Gate("linear", {"weight": torch.eye(8)[0]}))
    assert torch.equal(gated(X), torch.where((X[..., :1] > 0) & ENTRY, X + 1, X))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Operator("ad", torch.ones(8)), "Did you mean 'add'"),
        (lambda: Operator("add"), "cannot take"),
        (lambda: Operator("add", torch.ones(8), tensors={"more": torch.ones(8)}), "cannot take"),
        (lambda: Operator("add", torch.ones(3, 8)), "(cannot take|value of width 8)"),
        (lambda: Operator("add", torch.ones(3), torch.tensor([1, 2])), "cannot take"),
        (lambda: Operator("add", torch.ones(1), torch.tensor([-1])), "entry numbers"),
        (lambda: Operator("add", torch.ones(1), torch.tensor([1.0])), "(entry numbers|Type-check error)"),
        (lambda: Operator("project_out", torch.ones(2, 8)), "orthonormal"),
        (lambda: Operator("project_out", torch.full((1, 8), float("nan"))), "orthonormal"),
        (lambda: Operator("project_out", torch.ones(8)), "cannot take"),
        (lambda: Operator("sae_clamp", torch.ones(3), tensors=SAE, options={"kind": "relu"}), "cannot take"),
        (lambda: Operator("sae_clamp", torch.ones(2), tensors=SAE, options={"kind": "jumprelu"}), "other tensors"),
        (lambda: Operator("clamp", torch.ones(8), tensors={"floor": torch.ones(4)}), "cannot take"),
        (lambda: Gate("liner", {"weight": torch.ones(8)}), "Did you mean 'linear'"),
        (lambda: Gate("linear", {}), "cannot take"),
        (lambda: Gate("linear", {"weight": torch.ones(8)}, {"shift": 1.0}), "cannot take"),
        (lambda: Gate("linear", {"weight": torch.ones(8, 2)}), "(cannot take|one vector)"),
        (lambda: Gate("linear", {"weight": torch.ones(8)}, scope="row"), "(so_far|Type-check error)"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_model_runs(make, message: str) -> None:
    with pytest.raises((BadInput, TypeCheckError), match=message):  # the type checker of the tests may be first
        make()


def test_a_basis_rounded_to_bf16_is_orthonormal_enough() -> None:
    basis = torch.linalg.qr(torch.randn(512, 16, generator=torch.Generator().manual_seed(0)))[0].T
    assert Operator("project_out", basis.bfloat16()).width == 512


def test_nothing_stored_can_name_anything_but_an_entry_of_the_tables(tmp_path: Path) -> None:
    edit = HookEdit("", {}, operators={AT: Operator("add", torch.ones(8))})
    _, words = edit.save(tmp_path / "edit")
    words.write_text(words.read_text().replace('"add"', '"os.system"'))
    with pytest.raises(BadInput, match="No operator called 'os.system'"):
        load_edit(tmp_path / "edit")
    assert set(DETECTORS) == {"linear", "box"}
