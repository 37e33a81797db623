"""The files for Kubernetes and Slurm: what can be known of them without either."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_task
import yaml
from ports import free_port

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SLURM = ROOT / "configs" / "cluster" / "slurm.sh"
CLUSTER = yaml.safe_load((ROOT / "configs" / "cluster" / "raycluster.yaml").read_text())

#: Of KubeRay's ray.io/v1 and Kubernetes' v1: what each object may have, and must.
FIELDS = {
    "RayCluster": ({"apiVersion", "kind", "metadata", "spec"}, set()),
    "spec": ({"rayVersion", "headGroupSpec", "workerGroupSpecs"}, {"authOptions"}),
    "head": ({"rayStartParams", "template"}, {"serviceType"}),
    "workers": (
        {"groupName", "rayStartParams", "template"},
        {"replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"},
    ),
    "pod": ({"containers"}, {"volumes", "nodeSelector", "tolerations"}),
    "container": ({"name", "image", "resources"}, {"env", "ports", "volumeMounts", "command"}),
}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")


def check(what, found):
    must, may = FIELDS[what]
    assert must <= found.keys() <= must | may, f"{what}: {sorted(found)}"


def pods():
    spec = CLUSTER["spec"]
    return [
        group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]


def test_the_cluster_has_the_fields_of_a_ray_cluster():
    check("RayCluster", CLUSTER)
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", CLUSTER["metadata"]["name"])
    spec = CLUSTER["spec"]
    check("spec", spec)
    assert spec["authOptions"] == {"mode": "token"}
    check("head", spec["headGroupSpec"])
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    assert len(set(names)) == len(names)
    for group in spec["workerGroupSpecs"]:
        check("workers", group)
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        params = group["rayStartParams"]
        assert all(isinstance(value, str) for value in params.values())
        assert group["template"].keys() == {"spec"}


def test_its_pods_are_whole():
    for pod in pods():
        check("pod", pod)
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            check("container", container)
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert all(entry.keys() == {"name", "value"} for entry in container["env"])
            assert all(isinstance(entry["value"], str) for entry in container["env"])
            resources = container["resources"]
            # A core that another pod may take is no core to evaluate or measure on.
            assert resources["limits"] == resources["requests"]
            assert all(QUANTITY.fullmatch(str(value)) for value in resources["limits"].values())
    assert len({pod["containers"][0]["image"] for pod in pods()}) == 1


def test_the_device_s_node_says_what_autoprune_s_guide_says():
    """KubeRay puts the value into a shell's command line, so it is quoted once more."""
    bench = next(g for g in CLUSTER["spec"]["workerGroupSpecs"] if g["groupName"] == "bench")
    (given,) = shlex.split(json.loads(bench["rayStartParams"]["resources"]).join("''"))
    assert json.loads(given) == {"device:bench-1": 1}
    assert bench["rayStartParams"]["num-cpus"] == "0"


def test_its_ray_is_the_one_that_is_tested_with():
    pins = (ROOT / "constraints.txt").read_text()
    assert CLUSTER["spec"]["rayVersion"] == re.search(r"^ray==(\S+)", pins, re.MULTILINE)[1]


def test_the_slurm_script_can_be_read_by_bash():
    done = subprocess.run(["bash", "-n", SLURM], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_slurm_script_runs_a_batch_on_an_allocation_of_one_machine(tmp_path):
    """Slurm's part is played by a script that runs the command here; all else is real."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")
    (tmp_path / "srun").write_text(
        '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
    )
    (tmp_path / "srun").chmod(0o755)
    sweep = {
        "out": "batch",
        "models": [tiny_task.MODEL],
        "budgets": ["macs=0.5x"],
        "searchers": ["uniform"],
        "defaults": {"trials": 2, "device": None},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    done = subprocess.run(
        ["bash", SLURM, "sweep.yaml"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_PORT": str(free_port("")),
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURMD_NODENAME": socket.gethostname(),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "batch" / "summary.json").read_text())
    assert summary["states"] == {"held": 1}
