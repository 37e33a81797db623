import pytest

from autoprune.core.errors import ProfilerError
from autoprune.profile import nvidia_smi, onnxruntime_providers


def program(path, *lines):
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return (str(path),)


@pytest.fixture
def no_board(monkeypatch, tmp_path):
    monkeypatch.setattr(nvidia_smi, "BOARD", tmp_path / "none")


def test_name_and_driver_are_read(tmp_path, no_board):
    smi = program(tmp_path / "smi", 'echo "NVIDIA H200, 570.86.15 $3" | sed "s/ --id=1//"')
    assert nvidia_smi.gpu(1, command=smi) == ("NVIDIA H200", "570.86.15")


@pytest.mark.parametrize(
    ("shown", "asked"),
    [("", "1"), ("3,2", "2"), ("0,GPU-5a", "GPU-5a"), ("2", "1"), ("0,MIG-7", "1")],
)
def test_a_gpu_is_the_one_that_cuda_counts_so(tmp_path, no_board, monkeypatch, shown, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    smi = program(tmp_path / "smi", 'for last; do :; done; echo "GPU ${last#--id=}, 570"')
    assert nvidia_smi.gpu(1, command=smi) == (f"GPU {asked}", "570")
    assert nvidia_smi.number("GPU-77") == "GPU-77"


def test_a_jetson_is_told_by_its_device_tree(monkeypatch, tmp_path):
    board = tmp_path / "model"
    board.write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    monkeypatch.setattr(nvidia_smi, "BOARD", board)
    assert nvidia_smi.gpu(command=("no-such-smi",)) == ("NVIDIA Jetson Orin Nano Developer Kit", "")
    board.write_text("Raspberry Pi 5\0")
    with pytest.raises(ProfilerError, match="must be there; nvidia-smi is not there"):
        nvidia_smi.gpu(command=("no-such-smi",))


def test_what_nvidia_smi_says_is_told(tmp_path, no_board):
    smi = program(tmp_path / "smi", 'echo "No devices were found"; exit 6')
    with pytest.raises(ProfilerError, match=r"number 3 .* No devices were found"):
        nvidia_smi.gpu(3, command=smi)


def test_a_provider_is_told_by_what_it_runs_on(monkeypatch):
    monkeypatch.setattr(
        onnxruntime_providers, "gpu", lambda index: (f"NVIDIA {index}", "570.86.15")
    )
    name, details = onnxruntime_providers.runs_on("CUDAExecutionProvider", {"device_id": "1"})
    assert name == "NVIDIA 1"
    assert details["driver"] == "570.86.15"
    here, _ = onnxruntime_providers.runs_on("CPUExecutionProvider", {})
    there, _ = onnxruntime_providers.runs_on("OpenVINOExecutionProvider", {"device_type": "GPU"})
    assert there == f"{here} GPU"
    with pytest.raises(ProfilerError, match="device_id must be a number, got 'one'"):
        onnxruntime_providers.runs_on("CUDAExecutionProvider", {"device_id": "one"})


@pytest.mark.parametrize(
    ("name", "found"), [("cuda", "CUDAExecutionProvider"), ("CPUExecutionProvider", None)]
)
def test_providers_are_found_by_short_and_full_names(name, found):
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnxruntime_providers.find(name, available) == (found or name)


def test_options_are_read_from_text_and_mappings():
    parse = onnxruntime_providers.parse_options
    assert parse("device_id:0,mode:a:b") == {"device_id": "0", "mode": "a:b"}
    assert parse({"device_id": 1}) == {"device_id": "1"}
    assert parse("") == {}


def test_the_first_gpu_is_the_default_named_or_not():
    settings = onnxruntime_providers.settings
    assert settings({"device_id": "0", "mode": "x"}, "basic") == {
        "mode": "x",
        "graph_optimization": "basic",
    }
    assert settings({"device_id": "1"}, "all") == {"device_id": "1"}
