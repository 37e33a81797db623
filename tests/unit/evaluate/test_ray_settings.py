import contextlib
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

from autoprune.core.errors import ConfigError, MissingDependencyError
from autoprune.evaluate import ray_cluster
from autoprune.evaluate.packed import Packed
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_address import check_answers
from autoprune.evaluate.ray_cluster import (
    Cluster,
    actor_options,
    connected,
    import_ray,
)
from autoprune.evaluate.ray_errors import explained


class FakeRay:
    """What `ray.nodes()` says of three nodes, one of them dead."""

    def nodes(self):
        return [
            {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}, "NodeManagerAddress": "a"},
            {"Alive": True, "Resources": {"CPU": 3.0, "device:x": 1}, "NodeManagerAddress": "b"},
            {"Alive": False, "Resources": {"CPU": 64.0}, "NodeManagerAddress": "c"},
        ]


CLUSTER = Cluster(FakeRay(), False, "here")


@pytest.mark.parametrize(
    ("resources", "room"),
    [
        ({"cpu": 1}, 7),
        ({"cpu": 2}, 3),
        ({"cpu": 1, "gpu": 0.25}, 4),
        ({"cpu": 0.1, "gpu": 0.1}, 10),
        ({"device:x": 1, "cpu": 0}, 1),
        ({"cpu": 5}, 0),
        ({"gpu": 1, "device:x": 1}, 0),
    ],
)
def test_room_counts_nodes_that_are_alive(resources, room):
    assert CLUSTER.room(resources) == room


def test_what_no_node_has_is_told_with_what_there_is():
    with pytest.raises(ConfigError, match=r"\(cpu 5\).*a: CPU 4, GPU 1; b: CPU 3, device:x 1"):
        CLUSTER.require({"cpu": 5})
    CLUSTER.require({"cpu": 4})


def test_resources_become_ray_options():
    assert actor_options({"cpu": 2, "gpu": 0.5, "memory_bytes": 1e9, "device:x": 1}) == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "memory": 1e9,
        "resources": {"device:x": 1},
    }
    assert actor_options({"gpu": 0}) == {"num_cpus": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 1, "timeout_s": 0}, "timeout_s must be greater than 0"),
        ({"workers": 1, "retries": -1}, "retries must be at least 0"),
    ],
)
def test_settings_are_checked_before_anything_starts(settings, message):
    with pytest.raises(ConfigError, match=message):
        RayPool(lambda: None, **settings)


@pytest.mark.parametrize("address", ["nowhere", "host:", "ray://", ":6379x"])
def test_an_address_must_be_one(address):
    with pytest.raises(ConfigError, match="must be auto, host:port"), connected(address):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens_it_is_said_at_once(scheme):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"{scheme}127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no Ray cluster answers"), connected(address):
            pass


def test_auto_without_a_cluster_says_what_to_do(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    error = ConnectionError("Could not find any running Ray instance. Please specify ...")
    assert "ray start --head" in str(explained(error, "auto"))


@contextlib.contextmanager
def listening(answer):
    """host:port of a server that answers every connection with the same bytes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(64)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_where_something_else_listens_it_is_said_at_once(scheme, answer):
    with (
        listening(answer) as address,
        pytest.raises(ConfigError, match=r"something else .* listens at .*6379"),
    ):
        check_answers(scheme + address)


@pytest.mark.parametrize("answer", [bytes([0, 0, 0, 4]), bytes([0, 0, 18, 4, 0])])
def test_what_begins_as_grpc_does_may_be_a_head(answer):
    with listening(answer) as address:
        check_answers(address)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
            "This process was started with: Ray 2.60.0",
            ConfigError,
            r"another version[\s\S]*2\.59\.0",
        ),
        ("Failed to connect to Ray cluster at 10.0.0.1:6379", ConfigError, "RAY_AUTH_TOKEN"),
        ("InvalidAuthToken: token is missing", ConfigError, "RAY_AUTH_MODE"),
        ("requires pip package `ray[client]`", MissingDependencyError, r"ray-client"),
        (
            "Initialization failure from server:\nTraceback: python3 version\nOSError: too late",
            ConfigError,
            r"could not start a server for this client \(OSError: too late\)",
        ),
        ("something else\nmore", ConfigError, "something else. Check that `ray status`"),
    ],
)
def test_what_ray_says_becomes_what_to_do(text, kind, message):
    error = explained(RuntimeError(text), "10.0.0.1:6379")
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


@pytest.mark.parametrize(("failures", "text", "calls"), [(2, None, 3), (3, "too late", 3)])
def test_a_head_that_starts_no_server_is_asked_again(monkeypatch, failures, text, calls):
    asked = []

    def init(address, **options):
        asked.append(address)
        if len(asked) <= failures:
            raise ConnectionAbortedError("Initialization failure from server:\nOSError: too late")

    monkeypatch.setattr(ray_cluster, "check_answers", lambda address: None)
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: object())
    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: ray)
    told = contextlib.nullcontext() if text is None else pytest.raises(ConfigError, match=text)
    with told, connected("ray://10.0.0.1:10001"):
        pass
    assert len(asked) == calls


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"autoprune\[ray\]"):
        import_ray()


def test_a_ray_that_can_not_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "ray.py").write_text("raise KeyError('libamd_smi.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(MissingDependencyError, match=r"libamd_smi.*pip uninstall amdsmi"):
        import_ray()


def test_functions_of_a_script_come_along():
    number = 41
    packed = Packed.of(lambda: number + 1, "the function")
    assert packed.unpack()() == 42


def test_what_can_not_be_imported_there_is_said():
    packed = Packed(b"cno_such_module\nthing\n.", (), "the model")
    with pytest.raises(ConfigError, match=r"the model can't be unpacked on a worker.*python_path"):
        packed.unpack()
