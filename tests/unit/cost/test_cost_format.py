from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from cost_devices import DEVICE, FakeDevice, chain

from autoprune.core import DeviceSpec, KernelGraph, Measurement
from autoprune.core.errors import ConfigError, TableError, TableFormatError, TableMismatchError
from autoprune.cost.build import build_table
from autoprune.cost.describe import describe
from autoprune.cost.format import read_device
from autoprune.cost.locate import find_table, nearest_mismatch, table_name, tables
from autoprune.cost.table import LatencyTable

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def graph() -> KernelGraph:
    return chain((8, 16))


@pytest.fixture(scope="module")
def table(graph: KernelGraph) -> LatencyTable:
    device = FakeDevice(graph, noise=0.01, block=4)
    info = {"network": "a chain"}
    return build_table(graph, device.measure, DEVICE, candidates=10, info=info)


@pytest.fixture
def path(table: LatencyTable, tmp_path: Path) -> Path:
    return table.save(tmp_path / "folder" / "table.jsonl")


def kept(graph: KernelGraph) -> np.ndarray:
    return np.random.default_rng(0).integers(1, graph.units + 1, (20, len(graph.units)))


def seal(lines: list[str]) -> str:
    body = "\n".join(lines) + "\n"
    return body + json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest()}) + "\n"


def test_what_is_saved_is_read_back(graph: KernelGraph, path: Path) -> None:
    table = LatencyTable.load(path)
    table.update(graph.instantiate(graph.units[None] // 2), [Measurement("v", ratio=0.4)])
    table.save(path)
    again = LatencyTable.load(path, DEVICE)
    assert again.device == DEVICE
    assert dict(again.device.details) == {"clocks": "locked"}
    assert again.reference_ms == table.reference_ms
    assert again.info["network"] == "a chain"
    assert list(again.layouts) == list(table.layouts)
    assert [o.origin for o in again.observations] == [o.origin for o in table.observations]
    ours, theirs = (t.predict(graph.instantiate(kept(graph))) for t in (table, again))
    np.testing.assert_array_equal(ours.mean["latency_ms"], theirs.mean["latency_ms"])
    np.testing.assert_array_equal(ours.std["latency_ms"], theirs.std["latency_ms"])
    np.testing.assert_array_equal(ours.source["latency_ms"], theirs.source["latency_ms"])


def test_a_throttled_device_is_told_with_what_was_measured_on_it(
    graph: KernelGraph, path: Path
) -> None:
    table = LatencyTable.load(path)
    assert not any("note" in name for name, _ in describe(path).notes)
    note = "2 of 7 rounds are left out, as the device did not hold its speed"
    two = graph.instantiate(np.stack([graph.units // 2, graph.units // 4]))
    table.add(two, [Measurement(str(n), ratio=0.4, notes=(note,)) for n in range(2)])
    table.save(path)
    assert [o.notes for o in LatencyTable.load(path).observations[-3:]] == [(), (note,), (note,)]
    assert ("note of 2 candidates", note) in describe(path).notes
    table.add(
        graph.instantiate(np.stack([graph.units // 2] * 9)),
        [Measurement(str(n), ratio=0.4, notes=(f"note {n}",)) for n in range(9)],
    )
    table.save(path)
    told = describe(path).notes
    assert sum(name.startswith("note of") for name, _ in told) == 5
    assert ("further notes", "5, beside the candidates in the file") in told


def test_what_others_on_the_core_cost_is_kept(graph: KernelGraph, path: Path) -> None:
    table = LatencyTable.load(path)
    told = Measurement(
        "m",
        ratio=0.4,
        samples_ms=(4.0, 4.1),
        reference_ms=(10.0, 10.2),
        raw_ms=(6.0, 4.1),
        raw_reference_ms=(12.0, 10.2),
        common_std=0.0123,
    )
    table.add(graph.instantiate(graph.units[None] // 2), [told])
    table.save(path)
    (*others, found) = LatencyTable.load(path).observations
    assert found.samples_ms == told.samples_ms
    assert (found.raw_ms, found.raw_reference_ms) == (told.raw_ms, told.raw_reference_ms)
    assert found.common_std == told.common_std
    assert {"raw_ms", "raw_reference_ms", "common_std"} <= found.to_dict().keys()
    for other in others:
        assert not {"raw_ms", "raw_reference_ms", "common_std"} & other.to_dict().keys()


def test_the_file_is_text_with_a_header_that_tells(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    header = lines[0]
    assert header["schema"] == 2
    assert header["device"]["name"] == "Test CPU"
    assert {"units", "written", "autoprune_version", "reference_ms"} <= set(header)
    assert [line["kind"] for line in lines[1:]] == ["network"] + ["candidate"] * 13 + ["seal"]
    assert len(lines[3]["samples_ms"]) == 8
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("schema", [1, 2])
def test_a_table_of_every_schema_stays_readable_and_predicts_the_same(schema: int) -> None:
    path = GOLDEN / f"schema-{schema}.jsonl"
    assert json.loads(path.read_text().splitlines()[0])["schema"] == schema
    graph = chain((8, 16))
    table = LatencyTable.load(path, DEVICE)
    assert table.knows(graph)
    assert bool(table.borrowed) == (schema > 1)
    rows = np.array([[8, 16], [4, 8], [2, 12], [7, 3], [1, 1]])
    mean, std, _ = table.predict_ratio(table.layout(graph), rows)
    truth = [FakeDevice(graph, block=4).ratio(c) for c in graph.instantiate(rows).candidates()]
    np.testing.assert_allclose(mean, truth, rtol=0.06)
    expected = json.loads((GOLDEN / f"schema-{schema}.expected.json").read_text())
    np.testing.assert_allclose(mean, expected["ratio"], rtol=1e-3)
    np.testing.assert_allclose(std, expected["std"], rtol=0.02)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Other CPU"),
        ("runtime", "tensorrt"),
        ("runtime_version", "2.0"),
        ("precision", "fp16"),
        ("threads", 4),
    ],
)
def test_a_table_of_another_device_is_refused(path: Path, field: str, value: object) -> None:
    other = replace(DEVICE, **{field: value})
    with pytest.raises(TableMismatchError) as refused:
        LatencyTable.load(path, other)
    message = str(refused.value)
    assert f"{field}: the table has {getattr(DEVICE, field)!r}, this is {value!r}" in message
    assert "measure" in message
    for same in ("runtime_version", "precision", "threads"):
        if same != field:
            assert f"{same}:" not in message


def test_details_of_a_device_are_not_compared(path: Path) -> None:
    assert LatencyTable.load(path, replace(DEVICE, details={"clocks": "free"}))


def test_a_table_of_another_setting_is_refused(path: Path) -> None:
    other = replace(DEVICE, settings={"graph_optimization": "basic"})
    with pytest.raises(TableMismatchError, match=r"the table has 'the default', this is 'basic'"):
        LatencyTable.load(path, other)


def test_a_table_of_exported_networks_tells_that_no_option_helps(path: Path) -> None:
    with pytest.raises(TableMismatchError, match="PyTorch over ssh runs exported") as refused:
        LatencyTable.load(path, replace(DEVICE, settings={"network": "exported"}))
    assert "that option" not in str(refused.value)


def test_a_table_from_before_there_were_settings_tells_its_level(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()[:-1]
    header = json.loads(lines[0])
    del header["device"]["settings"]
    header["device"]["details"]["graph_optimization"] = "disabled"
    path.write_text(seal([json.dumps(header), *lines[1:]]))
    assert read_device(path).settings == {"graph_optimization": "disabled"}
    with pytest.raises(TableMismatchError, match="graph_optimization"):
        LatencyTable.load(path, DEVICE)


def test_a_truncated_table_is_refused(path: Path) -> None:
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(TableFormatError, match="truncated"):
        LatencyTable.load(path)
    path.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(TableFormatError, match="truncated"):
        LatencyTable.load(path)


def test_an_edited_table_is_refused(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace('"ratio": 0.', '"ratio": 1.', 1))
    with pytest.raises(TableFormatError, match="edited or damaged"):
        LatencyTable.load(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    lines = path.read_text().splitlines()[:-1]
    lines[0] = lines[0].replace('"schema": 2', '"schema": 3')
    path.write_text(seal(lines))
    with pytest.raises(TableFormatError, match=r"schema 2 or older, got 3.*update autoprune"):
        LatencyTable.load(path)


@pytest.mark.parametrize("text", ["", "hello\n", '{"a": 1}\n', "[]\n{}\n", "\x00\n"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(TableFormatError, match="must begin with a JSON header"):
        LatencyTable.load(path)
    with pytest.raises(TableFormatError, match="must begin with a JSON header"):
        read_device(path)


@pytest.mark.parametrize(
    "device", [None, "a CPU", {"name": "a CPU"}, {**asdict(DEVICE), "clock_mhz": 1}]
)
def test_a_header_without_a_device_as_we_know_it_is_refused(path: Path, device: object) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()[:-1]
    header = {**json.loads(lines[0]), "device": device}
    if device is None:
        del header["device"]
    path.write_text(seal([json.dumps(header, default=dict), *lines[1:]]))
    for read in (read_device, LatencyTable.load):
        with pytest.raises(TableFormatError, match="must describe its device"):
            read(path)


def test_binary_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TableFormatError, match="can't be read"):
        LatencyTable.load(tmp_path / "x.jsonl")
    with pytest.raises(TableFormatError, match="can't be read"):
        LatencyTable.load(tmp_path / "none.jsonl")


def test_sealed_nonsense_is_refused(path: Path) -> None:
    lines = path.read_text().splitlines()[:-1]
    path.write_text(seal([*lines, '{"kind": "candidate", "kept": [1]}']))
    with pytest.raises(TableFormatError, match="measure it again"):
        LatencyTable.load(path)
    path.write_text(seal([*lines, '{"kind": "strange"}']))
    with pytest.raises(TableFormatError, match="unknown kind of line 'strange'"):
        LatencyTable.load(path)
    path.write_text(seal([*lines, "not json"]))
    with pytest.raises(TableFormatError, match="measure it again"):
        LatencyTable.load(path)


def test_an_unwritable_folder_is_told(table: LatencyTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="can't be written"):
        table.save(tmp_path / "file" / "table.jsonl")
    with pytest.raises(TableError, match="has none"):
        LatencyTable(DEVICE, 1.0).save(tmp_path / "empty.jsonl")


def test_tables_are_found_by_device_and_network(
    table: LatencyTable, graph: KernelGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    assert find_table(None, DEVICE, graph) is None
    path = tmp_path / "latency_models" / table_name(DEVICE, "Chain batch 2")
    assert path.relative_to(tmp_path).as_posix() == (
        "latency_models/test-cpu/testrt-1.0-cpu-fp32-1threads-chain-batch-2.jsonl"
    )
    table.save(path)
    assert path in list(tables())
    found = find_table(None, DEVICE, graph)
    assert found is not None
    assert found.reference_ms == table.reference_ms
    assert find_table(None, DEVICE, chain((4, 4))) is None
    assert find_table(None, DEVICE) is not None
    other = DeviceSpec("Test CPU", "testrt", "9.9")
    assert find_table(None, other, graph) is None
    assert "runtime_version" in str(nearest_mismatch(other))


def test_a_table_given_by_path_must_be_there_and_fit(
    path: Path, graph: KernelGraph, tmp_path: Path
) -> None:
    assert find_table(path, DEVICE, graph) is not None
    with pytest.raises(ConfigError, match="not there"):
        find_table(tmp_path / "none.jsonl", DEVICE)
    with pytest.raises(TableMismatchError, match="threads"):
        find_table(path, replace(DEVICE, threads=2))


def test_a_table_outlives_another_way_of_describing_kernels(path: Path, graph: KernelGraph) -> None:
    ours = LatencyTable.load(path).predict(graph.instantiate(kept(graph))).mean["latency_ms"]
    lines = path.read_text().splitlines()[:-1]
    lines = [line.replace("conv2d kernel_size", "convolution of") for line in lines]
    lines = [line.replace('"name": "conv', '"name": "c') for line in lines]
    path.write_text(seal(lines))
    table = LatencyTable.load(path, DEVICE)
    assert table.knows(graph)
    again = table.predict(graph.instantiate(kept(graph))).mean["latency_ms"]
    np.testing.assert_allclose(again, ours)
