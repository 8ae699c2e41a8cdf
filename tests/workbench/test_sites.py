import pytest

from workbench.errors import BadInput
from workbench.sites import GLOBAL_PARTS, LAYER_PARTS, Site, layers_of, parse_sites

EXAMPLES = [
    Site(5, "mlp_act", 412),
    Site(2, "mlp_act", 7, expert=5),
    Site(2, "mlp_pre", 7, expert=5),
    Site(2, "mlp_pre", expert=5),
    Site(2, "expert", 5),
    Site(3, "resid_post"),
    Site(None, "embed"),
    Site(0, "head", 0),
    *(Site(11, part) for part in LAYER_PARTS),
    *(Site(None, part) for part in GLOBAL_PARTS),
]


@pytest.mark.parametrize("site", EXAMPLES, ids=str)
def test_the_text_form_round_trips(site: Site) -> None:
    assert Site.parse(str(site)) == site


def test_different_sites_have_different_texts() -> None:
    assert len({str(site) for site in EXAMPLES}) == len(set(EXAMPLES))


@pytest.mark.parametrize(
    "text", ["", "L5", "5.mlp_act", "L5.mlp_act[", "L5.mlp_act[a]", "L-1.mlp_act", "embed[3]", "L5.mlp_act[1] "]
)
def test_what_is_no_site_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match=r"L5\.mlp_act\[412\]"):
        Site.parse(text)


def test_a_misspelt_part_suggests_the_right_one() -> None:
    with pytest.raises(BadInput, match="Did you mean 'mlp_act'"):
        Site.parse("L5.mlp_atc[412]")


def test_a_layer_part_needs_a_layer_and_the_embedding_none() -> None:
    with pytest.raises(BadInput):
        Site(None, "mlp_act")
    with pytest.raises(BadInput):
        Site(0, "embed")


def test_only_neurons_lie_inside_an_expert() -> None:
    with pytest.raises(BadInput, match=r"L2\.expert\[5\]"):
        Site(2, "attn_out", expert=5)


def test_layers_are_listed_once_and_ascending() -> None:
    assert layers_of(parse_sites(["L3.mlp_out", "L1.head[2]", "embed", "L3.mlp_act[0]"])) == (1, 3)
