"""A cluster of two nodes by the commands of docs/how-to/cluster.md; one of them is killed."""

import json
import re
import socket
import time
from pathlib import Path

import pytest
import tiny_task

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

from ray_nodes import Nodes

from autoprune.study.batch_config import validate_sweep
from autoprune.study.batch_folder import BatchFolder

TESTS = Path(__file__).parents[1]
GUIDE = TESTS.parent / "docs" / "how-to" / "cluster.md"
TRIALS = 10


def commands(start):
    """The guide's shell commands that begin so."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(start)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    token = commands("export RAY_AUTH_MODE")[0]
    made = Nodes(folder, token, TINY_CALLS=str(folder / "calls"))
    try:
        made.start(commands("ray start --head")[0])
        made.start(commands("ray start --address")[0])
        yield made
    finally:
        made.close()


def finished(run):
    try:
        lines = (run / "journal.log").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(json.loads(line)["op_code"] == 4 for line in lines)


CONFIG = f"""
python_path: [{TESTS}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: tiny_task:evaluate
searcher: random
seed: 3
"""
SEARCH = "autoprune search config.yaml --workers 2"


def test_a_search_measures_on_the_node_that_has_the_device(nodes):
    fake = "autoprune.testing.fake_profiler:FakeProfiler"
    (nodes.folder / "config.yaml").write_text(
        f"""{CONFIG}
budget: latency=0.7x
trials: 4
out: measured
verify: {{top: 1}}
profile: {{candidates: 8, timeout_s: 3600}}
device:
  name: autoprune.evaluate.ray_device:RayProfiler
  options:
    resource: "device:bench-1"
    profiler: "{fake}"
    options: {{block: 8, gmacs_per_s: 2}}
    address: "{nodes.head}:{nodes.port}"
"""
    )
    command = next(c for c in commands("autoprune search config.yaml") if "$HEAD" in c)
    out, err = nodes.shell(f"{command} --json").communicate(timeout=900)
    result = json.loads(out) if out else {}
    assert result.get("held"), err
    assert result["device"]["name"] == "fake device"
    assert result["trials"]["finished"] >= 4


def sweep_of(**more):
    return {
        "models": [tiny_task.MODEL],
        "budgets": ["macs=0.5x"],
        "defaults": {"trials": 2, "device": None},
        **more,
    }


def test_a_batch_runs_on_the_nodes(nodes):
    sweep = sweep_of(out="batch", searchers=["uniform", "random"])
    (nodes.folder / "sweep.yaml").write_text(json.dumps(sweep))
    command = 'autoprune batch sweep.yaml --ray-address "$HEAD:$PORT" --json'
    out, err = nodes.shell(command).communicate(timeout=900)
    assert json.loads(out or "{}").get("states") == {"held": 2}, err


def test_a_batch_is_resumed_at_the_address_that_its_cluster_has_now(nodes):
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # bound, not listening
        before = f"127.0.0.1:{gone.getsockname()[1]}"
        sweep = sweep_of(out=str(nodes.folder / "moved"), searchers=["uniform"])
        sweep["jobs"] = {"address": before}
        BatchFolder.create(validate_sweep(sweep, "sweep.yaml"), nodes.folder, "sweep.yaml")
        resume = "autoprune batch resume moved --json"
        lost = nodes.shell(resume)
        _, err = lost.communicate(timeout=900)
        assert lost.returncode == 2, err
        assert f"no Ray cluster answers at {before}" in err
    moved = nodes.shell(f'{resume} --ray-address "$HEAD:$PORT"')
    out, err = moved.communicate(timeout=900)
    assert json.loads(out or "{}").get("states") == {"held": 1}, err
    assert moved.returncode == 0


def test_a_search_evaluates_through_rays_client(nodes):
    pytest.importorskip("grpc", reason="Ray's client needs pip install 'autoprune[ray-client]'")
    text = f"{CONFIG}\nbudget: macs=0.5x\ndevice: null\ntrials: 2\nout: client\n"
    (nodes.folder / "config.yaml").write_text(text)
    search = f"autoprune search config.yaml --workers 1 --ray-address {nodes.client} --json"
    out, err = nodes.shell(search).communicate(timeout=900)
    assert json.loads(out or "{}").get("trials") == {"finished": 2, "failed": 0}, err


def test_a_lost_node_costs_only_what_it_was_at(nodes):
    calls = nodes.folder / "calls"
    calls.unlink(missing_ok=True)
    text = f"{CONFIG}\nbudget: macs=0.5x\ndevice: null\ntrials: {TRIALS}\nout: lost\n"
    (nodes.folder / "config.yaml").write_text(text)
    with tiny_task.hold(calls, 4):
        search = nodes.shell(f'{SEARCH} --ray-address "$HEAD:$PORT" --json')
        until = time.monotonic() + 900
        # The dense network and three others; then both workers are at one more.
        while tiny_task.called(calls) < 6 or finished(nodes.folder / "lost") < 3:
            assert search.poll() is None, search.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        nodes.kill(nodes.started[1])
    out, err = search.communicate(timeout=900)
    result = json.loads(out) if out else {}
    assert result.get("held"), err
    assert result["trials"] == {"finished": TRIALS, "failed": 0}
    # What the node was at may still come to its end before its worker notices.
    assert 1 + TRIALS <= tiny_task.called(calls) <= 1 + TRIALS + 1


def test_a_wrong_token_is_told(nodes):
    # Ray tries again for 20 s by default.
    wrong = f"export RAY_AUTH_TOKEN={'0' * 64} RAY_NUM_REDIS_GET_RETRIES=3"
    search = nodes.shell(f'{wrong}\n{SEARCH} --ray-address "$HEAD:$PORT" --set out=token')
    _, err = search.communicate(timeout=900)
    assert search.returncode == 2, err
    assert "takes this process's token" in err
    assert "Traceback" not in err


def test_another_version_of_ray_is_told(nodes):
    text = f"{CONFIG}\nbudget: macs=0.5x\ndevice: null\ntrials: 2\nout: version\n"
    (nodes.folder / "config.yaml").write_text(text)
    script = (
        "import ray, sys; ray.__version__ = '2.1.0'; "
        "sys.argv = ['autoprune', 'search', 'config.yaml', '--workers', '1', '--ray-address', "
        f"'{nodes.address}']; from autoprune.cli import main; main()"
    )
    search = nodes.shell(f'python -c "{script}"')
    _, err = search.communicate(timeout=900)
    assert search.returncode == 2, err
    assert "is of another version than this process" in err
    assert "Traceback" not in err
