import os

import pytest

from autoprune.core.data import cache_folder
from autoprune.profile.tensorrt_cache import TimingCache


def test_a_cache_is_kept_by_device_and_version(tmp_path):
    cache = TimingCache("NVIDIA H200", "10.3.0", tmp_path / "deep")
    assert cache.load() == b""
    cache.store(b"tactics")
    assert cache.path.name == "nvidia-h200-10.3.0.cache"
    assert TimingCache("NVIDIA H200", "10.3.0", tmp_path / "deep").load() == b"tactics"
    assert TimingCache("NVIDIA H200", "11.0.0", tmp_path / "deep").load() == b""
    assert [p.name for p in cache.path.parent.iterdir()] == [cache.path.name]


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path):
    one, other = (TimingCache("gpu", "1", tmp_path) for _ in range(2))
    one.load()
    other.load()
    other.store(b"b")
    one.store(b"a", lambda old, new: old + new)
    assert one.load() == b"ba"
    one.store(b"ba")  # nothing new
    other.load()
    other.store(b"bac", lambda old, new: b"never asked for")
    assert one.load() == b"bac"


def test_the_users_cache_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "autoprune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "autoprune"


def test_a_folder_that_can_not_be_written_only_costs_time(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    cache = TimingCache("gpu", "1", blocked)
    assert cache.load() == b""
    cache.store(b"tactics")
    cache.store(b"more")
    assert caplog.text.count("engines take longer to build") == 1


@pytest.mark.skipif(os.name == "nt", reason="folders stand for unreadable files")
def test_a_file_that_can_not_be_read_only_costs_time(tmp_path, caplog):
    cache = TimingCache("gpu", "1", tmp_path)
    cache.path.mkdir()
    assert cache.load() == b""
    assert "can't be read" in caplog.text
