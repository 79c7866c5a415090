"""What docker-compose.yml promises, without a Docker daemon: its config file starts three local nodes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import nats
import pytest
import yaml

from convive.bus.server._server_config import server_config
from convive.bus.server._server_process import server_binary, server_version

if TYPE_CHECKING:
    from tests.conftest import Cluster

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "deploy" / "nats.conf"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if service["image"].startswith("nats:")}


def test_three_nodes_run_the_version_of_the_wheel() -> None:
    version = server_version(server_binary())
    assert len(NODES) == 3
    assert {node["image"] for node in NODES.values()} == {f"nats:{version}-alpine"}


def test_every_port_is_published_on_loopback_only_and_once() -> None:
    published = [port for service in SERVICES.values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published) == 6


def test_monitoring_is_not_published() -> None:
    for node in NODES.values():
        assert node["environment"]["MONITOR_LISTEN"].startswith("127.0.0.1:")
        assert node["healthcheck"]["test"][-1].startswith(f"http://{node['environment']['MONITOR_LISTEN']}/healthz")


def test_clients_are_told_the_published_address_of_a_node() -> None:
    for node in NODES.values():
        inside = node["environment"]["CLIENT_LISTEN"].rpartition(":")[2]
        assert node["ports"] == [f"{node['environment']['CLIENT_ADVERTISE']}:{inside}"]


def test_every_node_has_a_volume_of_its_own_for_its_store() -> None:
    stores = [
        volume.split(":")[0]
        for node in NODES.values()
        for volume in node["volumes"]
        if volume.split(":")[1] == node["environment"]["STORE_DIR"]
    ]
    assert set(stores) == set(COMPOSE["volumes"])
    assert len(stores) == 3


def test_every_mounted_file_exists_and_every_container_reads_its_own() -> None:
    for service in SERVICES.values():
        if "volumes" not in service:
            continue
        mounted = {volume.split(":")[1]: volume.split(":") for volume in service["volumes"] if volume[0] == "."}
        assert service["command"][0] == "--config"
        host, _, mode = mounted[service["command"][1]]
        assert (ROOT / host).is_file()
        assert mode == "ro"


def test_routes_lead_to_every_node() -> None:
    for name, node in NODES.items():
        environment = node["environment"]
        port = environment["CLUSTER_LISTEN"].rpartition(":")[2]
        routes = {value for key, value in environment.items() if key.startswith("ROUTE_")}
        assert routes == {f"nats://{one}:{port}" for one in NODES}
        assert environment["NODE_NAME"] == name


def test_the_cluster_has_the_settings_of_the_embedded_server() -> None:
    embedded = _settings(server_config(Path("data"), 4222, fast=False), "jetstream", "feature_flags", "max_payload")
    assert _settings(CONFIG.read_text(), "jetstream", "feature_flags", "max_payload") == embedded
    assert "sync_interval: always" in embedded["jetstream"]


def test_a_fast_server_differs_in_nothing_but_the_sync() -> None:
    durable, fast = (server_config(Path("data"), 4222, fast=fast).splitlines() for fast in (False, True))
    assert [line for line in durable if line not in fast] == ["  sync_interval: always"]
    assert [line for line in fast if line not in durable] == []


def test_the_collector_uses_what_it_defines() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "otel-collector.yaml").read_text())
    assert set(config["service"]["pipelines"]) == {"traces", "metrics"}
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    endpoints = [one["endpoint"] for one in config["receivers"]["otlp"]["protocols"].values()]
    inside = [port.split(":")[2] for port in SERVICES["otel-collector"]["ports"]]
    assert [endpoint.rpartition(":")[2] for endpoint in endpoints] == inside


def test_traces_are_opt_in_and_the_collector_hands_them_to_jaeger() -> None:
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == {"otel-collector", "jaeger"}
    config = yaml.safe_load((ROOT / "deploy" / "otel-collector.yaml").read_text())
    backend = next(name for name in config["service"]["pipelines"]["traces"]["exporters"] if name != "debug")
    host, port = config["exporters"][backend]["endpoint"].removeprefix("http://").split(":")
    assert SERVICES[host]["command"][1].endswith(f"=0.0.0.0:{port}")


def test_compose_gives_the_configuration_the_variables_that_the_local_nodes_give(cluster: "Cluster") -> None:
    wanted = set(re.findall(r"\$(\w+)", CONFIG.read_text()))
    for name, node in NODES.items():
        assert set(node["environment"]) == set(cluster.environment(name)) == wanted


async def test_one_url_is_enough_to_be_told_all_three(cluster: "Cluster") -> None:
    client = await nats.connect(cluster.urls["nats-1"])
    try:
        wanted = {url.removeprefix("nats://") for url in cluster.urls.values()}
        with anyio.fail_after(30):  # a node that is in touch with the cluster may hear of the third one a moment later
            while {one.netloc for one in (*client.servers, *client.discovered_servers)} != wanted:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    finally:
        await client.close()


def _settings(config: str, *names: str) -> dict[str, set[str]]:
    """The lines of each block or setting, without comments and without the place of the store."""
    found: dict[str, set[str]] = {}
    lines = [line.strip() for line in config.splitlines() if line.strip() and not line.strip().startswith("#")]
    for name in names:
        start = next(n for n, line in enumerate(lines) if line.startswith(name))
        end = lines.index("}", start) if lines[start].endswith("{") else start
        found[name] = {line for line in lines[start : end + 1] if not line.startswith("store_dir")}
    return found
