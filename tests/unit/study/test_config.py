import pytest
import yaml

from autoprune.core.budget import Budget
from autoprune.core.errors import ConfigError
from autoprune.study.config import validate
from autoprune.study.config_files import override, read_config, write_yaml


def config_file(tmp_path, text):
    path = tmp_path / "search.yaml"
    path.write_text(text)
    return path


GOOD = """
model: nets:build
inputs: 8x3x32x32
evaluate: {name: nets:evaluate, options: {subset: 100}}
budget: {latency: 0.6x, macs: 60M}
searcher: {name: amc, options: {warmup: 20}}
trials: 30
verify: {top: 2}
"""


def test_reads_a_config(tmp_path):
    config = read_config(config_file(tmp_path, GOOD))
    assert config.model.name == "nets:build"
    assert config.evaluate.options == {"subset": 100}
    assert config.searcher.options == {"warmup": 20}
    assert (config.trials, config.verify.top, config.seed) == (30, 2, 0)
    assert config.device.name == "onnxruntime-cpu"


def test_what_is_written_is_read_back_as_it_was(tmp_path):
    config = read_config(config_file(tmp_path, GOOD + "device: null\n"))
    assert config.device is None
    again = read_config(config_file(tmp_path, write_yaml(config)))
    assert again == config


def test_set_overrides_one_bound_of_a_budget_written_as_text():
    data = override({"budget": "latency=0.6x, macs=60M"}, ["budget.latency=0.5x"])
    assert Budget.parse(data["budget"]) == Budget.parse("latency=0.5x, macs=60M")
    data = override({"budget": {"flops": "60M"}}, ["budget.macs=0.5x"])
    assert data == {"budget": {"macs": "0.5x"}}


def test_set_overrides_single_settings(tmp_path):
    path = config_file(tmp_path, GOOD)
    config = read_config(path, ["budget.latency=0.5x", "seed=3", "searcher.options.warmup=5"])
    assert config.budget == {"latency": "0.5x", "macs": "60M"}
    assert (config.seed, config.searcher.options["warmup"]) == (3, 5)


def test_set_beside_a_name_alone():
    data = override({"searcher": "tpe"}, ["searcher.options.startup=4"])
    assert data == {"searcher": {"name": "tpe", "options": {"startup": 4}}}


@pytest.mark.parametrize("setting", ["seed", "=3", "a..b=1", ".a=1"])
def test_a_set_of_another_form_is_refused(setting):
    with pytest.raises(ConfigError, match="must be written name=value"):
        override({}, [setting])


def test_set_does_not_go_into_a_number():
    with pytest.raises(ConfigError, match="no settings within"):
        override({"trials": 3}, ["trials.more=1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trails: 3", "unknown setting 'trails'; did you mean 'trials'"),
        ("verify: {tops: 3}", "unknown setting 'verify.tops'; did you mean 'top'"),
        ("model: {nam: x}", "unknown setting 'model.nam'; did you mean 'name'"),
        ("trials: 0", "trials: input should be greater than or equal to 1, got 0"),
        ("trials: many", "trials: input should be an integer, got 'many'"),
        ("budget: {latency: fast}", "budget: .*latency_ms must be a number"),
        ("budget: {}", "must bound something"),
        ("seed: -1", "seed: .*got -1"),
        ("qwertyuiop: 1", "unknown setting 'qwertyuiop'; there are: budget, calibration"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, change, message):
    data = yaml.safe_load(GOOD) | yaml.safe_load(change)
    with pytest.raises(ConfigError, match=message) as caught:
        validate(data, "x.yaml")
    assert "x.yaml" in str(caught.value)


def test_everything_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        validate({"trails": 3, "seed": -1}, "x.yaml")
    assert str(caught.value).count("x.yaml:") == 3  # and the budget is missing


def test_environment_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("AP_DATA", "/data")
    path = config_file(tmp_path, GOOD + "space: $AP_DATA/space.yaml\ntable: ${AP_DATA}/t.json\n")
    config = read_config(path)
    assert (config.space, config.table) == ("/data/space.yaml", "/data/t.json")


def test_a_missing_environment_variable_is_named(tmp_path):
    path = config_file(tmp_path, GOOD + "table: $AP_NOWHERE/t.json\n")
    with pytest.raises(ConfigError, match="AP_NOWHERE must be set"):
        read_config(path)


def test_a_missing_file_tells_the_nearest(tmp_path):
    config_file(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"did you mean .*search\.yaml"):
        read_config(tmp_path / "serch.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "line"), ("- 1", "must be a mapping"), ("", "must be a mapping")],
)
def test_a_file_that_is_no_mapping(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(config_file(tmp_path, text))


def test_yaml_makes_no_objects(tmp_path):
    path = config_file(tmp_path, "model: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="can't be read"):
        read_config(path)


def test_rewinding_takes_the_place_of_the_own_schedule(tmp_path):
    text = GOOD + "recover: {epochs: 5, rewind: {epochs: 200, milestones: [100, 150]}}\n"
    config = read_config(config_file(tmp_path, text))
    assert config.recover.rewind.milestones == (100, 150)
    again = read_config(config_file(tmp_path, write_yaml(config)))
    assert again == config
    for wrong, match in [
        ("{lr: 0.1, rewind: {epochs: 200}}", "takes the place of lr"),
        ("{epochs: 9, rewind: {epochs: 8}}", r"rewind\.epochs \(8\), got 9"),
        ("{rewind: {epochs: 200, milestones: [200]}}", "between 0 and epochs"),
        ("{rewind: {milestones: [20]}}", "epochs"),
    ]:
        with pytest.raises(ConfigError, match=match):
            read_config(config_file(tmp_path, GOOD + f"recover: {wrong}\n"))
