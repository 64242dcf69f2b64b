"""Joining Ray, and seeing that it is still there."""

import importlib.util
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

import detector
from tests.detector.scan.packages import needed

ray, cluster = needed("ray", "detector.scan.cluster")

pytestmark = pytest.mark.xdist_group("ray")


def test_workers_import_nothing_from_the_folder_that_ray_starts_in(ray_here):
    (ray_here / "only_started_here.py").touch()

    @ray.remote(num_cpus=0)
    def found():
        return importlib.util.find_spec("only_started_here"), importlib.util.find_spec("detector").origin

    assert ray.get(found.remote()) == (None, detector.__file__)


def test_a_cluster_that_is_not_there(monkeypatch):
    """Nothing, something that waits to be asked, something that speaks otherwise, and a Ray cluster."""

    monkeypatch.setattr(cluster, "_SECONDS_TO_REACH", 0.5)
    for address in ("nowhere", "ray://127.0.0.1:1", "127.0.0.1", ":1", "a:b", "a:-1"):
        with pytest.raises(ValueError, match="--address must be HOST:PORT or auto, got"):
            cluster._check_reachable(address)
    with socket.socket() as nobody, socket.create_server(("127.0.0.1", 0)) as silent:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        for server, error in ((nobody, "refused"), (silent, "timed out")):
            address = f"127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(OSError, match=rf"--address {address}: no Ray cluster answers there \(.*{error}"):
                cluster._check_reachable(address)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        monkeypatch.setattr(other, "handle_error", lambda *_: None)
        monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
        threading.Thread(target=other.handle_request, daemon=True).start()
        with pytest.raises(OSError, match=r"no Ray cluster answers there \("):
            cluster._check_reachable(f"127.0.0.1:{other.server_port}")


def test_a_cluster_that_is_there(ray_here, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_REACH", 100)
    cluster._check_reachable(ray.get_runtime_context().gcs_address)


def test_a_cluster_that_asks_for_its_token():
    """Ray has the reason two causes down, in the text of a traceback."""
    error = ConnectionError("Failed to connect")
    error.__cause__ = RuntimeError("Failed. Traceback (...)\n ray.exceptions.AuthenticationError: InvalidAuthToken")
    assert cluster._why(error).startswith("it asks for its token: set RAY_AUTH_MODE=token")
    assert cluster._why(ray.exceptions.AuthenticationError("x")).startswith("it asks for its token")
    assert cluster._why(ValueError("a\n  b")) == "a b"


def test_a_cluster_that_goes_away_ends_the_scan(ray_here, monkeypatch):
    """After a while; one that comes back in time does not."""
    now = 0.0
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: now))
    watch = cluster.Watch(cluster.Crew(actors=1, cores=1, gpus=0))
    there, head = ray.nodes(), watch._head

    def looked(seconds):
        nonlocal now
        until = now + seconds
        while now < until:
            watch.look()
            now += 1

    looked(100)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        for name, value, error in (
            ("_head", nobody.getsockname(), "the head of the Ray cluster is gone"),
            ("_crew", cluster.Crew(1, 10**6, 0), "no machine of the Ray cluster has 1000000 cores any more"),
        ):
            well = getattr(watch, name)
            setattr(watch, name, value)
            looked(cluster._PATIENCE - cluster.SECONDS_BETWEEN_LOOKS)
            setattr(watch, name, well)
            looked(2 * cluster.SECONDS_BETWEEN_LOOKS)
            setattr(watch, name, value)
            with pytest.raises(OSError, match=error):
                looked(cluster._PATIENCE + 2 * cluster.SECONDS_BETWEEN_LOOKS)
            setattr(watch, name, well)
            looked(2 * cluster.SECONDS_BETWEEN_LOOKS)
    monkeypatch.setattr(ray, "nodes", lambda: [{**node, "Alive": False} for node in there])
    with pytest.raises(OSError, match="no machine of the Ray cluster has 1 cores any more"):
        looked(cluster._PATIENCE + 2 * cluster.SECONDS_BETWEEN_LOOKS)
    assert watch._head == head
