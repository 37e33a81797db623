"""A cluster of two nodes by the commands of docs/how-to/cluster.md; one of them is killed."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

TESTS = Path(__file__).parents[1]
GUIDE = TESTS.parent / "docs" / "how-to" / "cluster.md"
TRIALS = 10


def commands(start):
    """The guide's shell commands that begin so."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(start)]


class Nodes:
    """Real `ray start` processes, each ended by its own process group."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("", 0))
            self.port = free.getsockname()[1]
        self.head = socket.gethostbyname(socket.gethostname())
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOKEN": secrets.token_hex(32),
            "PORT": str(self.port),
            "HEAD": self.head,
            "OMP_NUM_THREADS": "1",
            "AUTOPRUNE_LOCKS": str(folder / "locks"),
            "TINY_CALLS": str(folder / "calls"),
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        self.started = []

    def shell(self, command, **options):
        """Run a command of the guide in its environment."""
        return subprocess.Popen(
            ["bash", "-c", f"{commands('export RAY_AUTH_MODE')[0]}\n{command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def start(self, command):
        """A node, in the foreground so that it ends with its process."""
        more = "--block --object-store-memory=100000000"
        with (self.folder / f"node{len(self.started)}.log").open("w") as log:
            process = subprocess.Popen(
                [
                    "bash",
                    "-c",
                    f"{commands('export RAY_AUTH_MODE')[0]}\nexec {command} {more}",
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def wait(self, number):
        """Until a node says that it runs."""
        log = self.folder / f"node{number}.log"
        until = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            if self.started[number].poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text())
            time.sleep(0.2)

    def kill(self, process, how=signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    made = Nodes(tmp_path_factory.mktemp("cluster"))
    try:
        made.start(commands("ray start --head")[0])
        made.wait(0)
        made.start(commands("ray start --address")[0])
        made.wait(1)
        yield made
    finally:
        for process in reversed(made.started):
            made.kill(process, signal.SIGTERM)


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
profile: {{candidates: 8}}
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
    out, err = nodes.shell(f"{command} --json").communicate(timeout=300)
    result = json.loads(out) if out else {}
    assert result.get("held"), err
    assert result["device"]["name"] == "fake device"
    assert result["trials"]["finished"] >= 4


def test_a_batch_runs_on_the_nodes(nodes):
    sweep = {
        "out": "batch",
        "models": [
            {
                "name": "tiny",
                "python_path": [str(TESTS)],
                "model": "tiny_task:build",
                "inputs": "tiny_task:inputs",
                "evaluate": "tiny_task:evaluate",
            }
        ],
        "budgets": ["macs=0.5x"],
        "searchers": ["uniform", "random"],
        "defaults": {"trials": 2, "device": None},
    }
    (nodes.folder / "sweep.yaml").write_text(json.dumps(sweep))
    command = 'autoprune batch sweep.yaml --ray-address "$HEAD:$PORT" --json'
    out, err = nodes.shell(command).communicate(timeout=300)
    assert json.loads(out or "{}").get("states") == {"held": 2}, err


def test_a_lost_node_costs_only_what_it_was_at(nodes):
    (nodes.folder / "calls").unlink(missing_ok=True)
    text = f"{CONFIG}\nbudget: macs=0.5x\ndevice: null\ntrials: {TRIALS}\nout: lost\n"
    (nodes.folder / "config.yaml").write_text(text)
    search = nodes.shell(f'{SEARCH} --ray-address "$HEAD:$PORT" --json')
    until = time.monotonic() + 240
    while finished(nodes.folder / "lost") < 2 and search.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert search.poll() is None, search.communicate()
    nodes.kill(nodes.started[1])
    out, err = search.communicate(timeout=300)
    result = json.loads(out) if out else {}
    assert result.get("held"), err
    assert result["trials"] == {"finished": TRIALS, "failed": 0}
    calls = len((nodes.folder / "calls").read_text().splitlines())
    assert 1 + TRIALS <= calls <= 1 + TRIALS + 1


def test_a_wrong_token_is_told(nodes):
    # Ray tries again for 20 s by default.
    wrong = f"export RAY_AUTH_TOKEN={'0' * 64} RAY_NUM_REDIS_GET_RETRIES=3"
    search = nodes.shell(f'{wrong}\n{SEARCH} --ray-address "$HEAD:$PORT" --set out=token')
    _, err = search.communicate(timeout=240)
    assert search.returncode == 2, err
    assert "takes this process's token" in err
    assert "Traceback" not in err
