import json
import subprocess
import sys

import pytest

from autoprune.core.errors import RunError, RunLockedError, RunVersionError
from autoprune.study.folder import SCHEMA, RunFolder, check_schema


def test_a_folder_that_holds_a_run_is_not_begun_again(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write(folder.config, "seed: 0\n")
    with pytest.raises(RunError, match="autoprune resume"):
        RunFolder.create(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").config.read_text() == "seed: 0\n"


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_folder_without_a_run_is_not_opened(tmp_path, place):
    with pytest.raises(RunError, match=r"holds no run|does not exist"):
        RunFolder.open(tmp_path / place)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        RunFolder.create(tmp_path / "file" / "run")


def test_two_processes_do_not_share_a_folder(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    code = (
        "import sys\n"
        "from autoprune.core.errors import RunLockedError\n"
        "from autoprune.study.folder import RunFolder\n"
        "try:\n"
        "    with RunFolder.create(sys.argv[1]): print('got it')\n"
        "except RunLockedError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with folder:
        held = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    free = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "another process works in" in held
    assert free == "got it\n"


def test_locked_twice_in_one_process(tmp_path):
    RunFolder.create(tmp_path)
    with RunFolder(tmp_path), pytest.raises(RunLockedError), RunFolder(tmp_path):
        pass


def test_results_are_written_and_read(tmp_path):
    folder = RunFolder.create(tmp_path)
    with pytest.raises(RunError, match="no result yet"):
        folder.read_result()
    folder.write_result({"schema": SCHEMA, "held": True})
    assert folder.read_result() == {"schema": SCHEMA, "held": True}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".result")] == []


def test_a_result_that_is_damaged_or_newer(tmp_path):
    folder = RunFolder.create(tmp_path)
    folder.result.write_text("{")
    with pytest.raises(RunError, match="can't be read"):
        folder.read_result()
    folder.result.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(RunVersionError, match="newer autoprune"):
        folder.read_result()
    folder.result.write_text("[]")
    with pytest.raises(RunError, match="no result of autoprune"):
        folder.read_result()


@pytest.mark.parametrize("schema", [None, True, "1", 0])
def test_a_schema_is_a_positive_integer(tmp_path, schema):
    with pytest.raises(RunError, match="positive integer"):
        check_schema(schema, tmp_path)


def test_an_unwritable_folder_is_said(tmp_path, monkeypatch):
    import os

    folder = RunFolder.create(tmp_path)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match="can't be written: Permission denied"), folder:
        pass
