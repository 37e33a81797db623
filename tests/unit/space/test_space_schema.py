import pytest

from autoprune.core.errors import ConfigError
from autoprune.space.schema import available, load_space
from autoprune.testing.problems import SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)


@pytest.mark.parametrize(
    "name", ["coarse", "fine", "gentle", "multiples-of-8", "resnet-inner", "stages"]
)
def test_packaged_definitions_build(name):
    assert name in available()
    space = load_space(name).build(PROBLEM)
    assert space.size > 1


def test_edges_are_used_where_a_definition_lets_them():
    def edges(group):
        return (8, 16)

    assert load_space("fine").build(PROBLEM, edges).decisions[0].choices == (8, 16)
    coarse = load_space("coarse").build(PROBLEM, edges)
    assert coarse.decisions[0].choices == (2, 4, 6, 8, 10, 12, 14, 16)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "groups:\n  'layer1.*': {min_keep: 0.5, multiple_of: 4}\n  layer2.trunk: freeze\n"
    )
    space = load_space(path).build(PROBLEM)
    assert space.decisions[0].choices == (8, 12, 16)
    assert next(d for d in space.decisions if d.group == "layer2.trunk").choices == (32,)


def test_data_folder_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "house.yaml").write_text("levels: 3\n")
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    assert load_space("house").levels == 3
    assert load_space("fine").levels == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("multipleof: 8", "unknown key 'multipleof' .known: version"),
        ("version: 2", "version"),
        ("groups: {layer1.*: {keep: 1}}", "keep"),
        ("groups: {layer1.*: frozen}", "freeze"),
        ("min_keep: -1", "min_keep"),
        ("- a list", "must be a YAML mapping, got list"),
        ("a: [", "must be YAML"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_space(path)


def test_patterns_that_match_nothing():
    text = {"groups": {"heads.*": "freeze"}}
    with pytest.raises(ConfigError, match=r"'heads.*' must match a channel group"):
        load_space(text).build(PROBLEM)
    assert len(load_space({**text, "optional": True}).build(PROBLEM)) == 9


def test_unknown_names_list_what_there_is():
    with pytest.raises(ConfigError, match=r"one of .*fine, gentle.*'nope' is neither"):
        load_space("nope")
