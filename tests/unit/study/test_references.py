from functools import partial

import pytest

from autoprune.core.errors import ConfigError
from autoprune.study.references import (
    call_reference,
    expand,
    function_reference,
    import_reference,
)

NETS = """
import helper_beside_nets

def build(width=4):
    return helper_beside_nets.FACTOR * width

def broken():
    return 1 / 0

number = 3
"""


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "helper_beside_nets.py").write_text("FACTOR = 2\n")
    return tmp_path


def test_a_file_beside_the_config_with_its_neighbours(nets):
    assert call_reference("nets.py:build", {}, nets, "model") == 8
    assert call_reference("nets.py:build", {"width": 5}, nets, "model") == 10
    assert isinstance(function_reference("nets.py:build", {"width": 5}, nets, "x"), partial)


def test_a_network_is_not_run(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, width=4):\n        super().__init__(width, 2)\n\n\nnet = Net(3)\n"
    )
    made = [
        call_reference("own.py:Net", {}, tmp_path, "model"),
        call_reference("own.py:Net", {"width": 5}, tmp_path, "model"),
        call_reference("own.py:net", {}, tmp_path, "model"),
    ]
    assert [each.in_features for each in made] == [4, 5, 3]


def test_a_module_of_the_path(nets):
    assert import_reference("json:dumps", nets, "model")([1]) == "[1]"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nest.py:build", "no file .*nest.py; did you mean 'nets.py'"),
        ("nets.py:biuld", "no 'biuld'; did you mean 'build'"),
        ("no_such_module_here:build", "can't be imported"),
        ("json:dunps", "did you mean 'dumps'"),
        ("json", "must be written package.module:name"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(nets, target, message):
    with pytest.raises(ConfigError, match=message):
        import_reference(target, nets, "model")


def test_a_function_that_raises_is_told_with_its_line(nets):
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero \(broken, nets"):
        call_reference("nets.py:broken", {}, nets, "model")


def test_a_file_that_raises_while_imported(tmp_path):
    (tmp_path / "bad.py").write_text("x = {}['a']\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="KeyError"):
            import_reference("bad.py:x", tmp_path, "model")


def test_a_number_is_no_function(nets):
    with pytest.raises(ConfigError, match="must be a function, got int"):
        function_reference("nets.py:number", {}, nets, "model")


def test_wrong_options_are_an_error_not_a_traceback(nets):
    with pytest.raises(ConfigError, match="unexpected keyword argument 'wdith'"):
        call_reference("nets.py:build", {"wdith": 5}, nets, "model")


def test_expand(monkeypatch):
    monkeypatch.setenv("AP_X", "there")
    assert expand("$AP_X/a ${AP_X}b 5$", "x") == "there/a thereb 5$"
