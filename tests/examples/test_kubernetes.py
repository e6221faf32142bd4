"""The Kubernetes manifests are valid, and fit the Collector's configuration that they mount."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
#: The oldest version with sidecars, and the newest one that the validator has.
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text(encoding="utf-8")))


def find(name: str, kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests(name) if manifest["kind"] == kind]


def collectors() -> dict[str, dict[str, Any]]:
    """Return the container of the Collector in each manifest."""
    (gateway,), (sidecar,) = find("gateway.yaml", "StatefulSet"), find("sidecar.yaml", "Deployment")
    return {
        "gateway.yaml": gateway["spec"]["template"]["spec"]["containers"][0],
        "sidecar.yaml": sidecar["spec"]["template"]["spec"]["initContainers"][0],
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["gateway.yaml", "sidecar.yaml"])
def test_manifests_are_valid(name: str, version: str) -> None:
    """Strict: an unknown key is an error."""
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", ["gateway.yaml", "sidecar.yaml"])
def test_the_collector_has_all_that_its_configuration_needs(name: str) -> None:
    """Its files, its variables and a volume for its queue."""
    container = collectors()[name]
    files = [Path(argument.removeprefix("--config=")) for argument in container["args"]]
    text = "".join((EXAMPLES / "collector" / file.name).read_text(encoding="utf-8") for file in files)
    readme = (EXAMPLES / "kubernetes" / "README.md").read_text(encoding="utf-8")
    given = set(re.findall(r"--from-literal=(\w+)=", readme)) | {entry["name"] for entry in container["env"]}
    assert set(re.findall(r"\$\{env:(\w+)\}", text)) <= given
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(file.parent) for file in files} == {mounts["config"]}
    config = yaml.safe_load((EXAMPLES / "collector" / "config.yaml").read_text(encoding="utf-8"))
    assert Path(mounts["queue"]) in Path(config["extensions"]["file_storage"]["directory"]).parents


def test_each_replica_is_in_the_list_of_collectors() -> None:
    """And the list uses the names that the headless service gives them."""
    (workload,) = find("gateway.yaml", "StatefulSet")
    container = workload["spec"]["template"]["spec"]["containers"][0]
    (listed,) = (entry["value"] for entry in container["env"] if entry["name"] == "COLLECTORS")
    name, service = workload["metadata"]["name"], workload["spec"]["serviceName"]
    assert yaml.safe_load(listed) == [
        f"{name}-{number}.{service}:4317" for number in range(workload["spec"]["replicas"])
    ]
    (headless,) = (each for each in find("gateway.yaml", "Service") if each["metadata"]["name"] == service)
    assert headless["spec"]["clusterIP"] == "None"


def test_one_version_of_the_collector() -> None:
    """The one that the integration test builds."""
    builder = yaml.safe_load((EXAMPLES / "collector" / "builder.yaml").read_text(encoding="utf-8"))
    compose = yaml.safe_load((EXAMPLES / "collector" / "compose.yaml").read_text(encoding="utf-8"))
    images = {container["image"] for container in collectors().values()} | {compose["services"]["collector"]["image"]}
    assert images == {f"otel/opentelemetry-collector-contrib:{builder['dist']['version']}"}
