"""The collector's example: its parts fit together, and its sampling equals byline's."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from byline.export.decisions import is_sampled

FOLDER = Path(__file__).parents[2] / "examples" / "collector"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    return found


def test_every_part_is_defined_and_used(config: dict[str, Any]) -> None:
    (pipeline,) = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(config[kind])
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    for exporter in config["exporters"].values():
        assert exporter["sending_queue"]["storage"] in config["extensions"]
        assert exporter.get("auth", {}).get("authenticator", "file_storage") in config["extensions"]


def test_waiting_batches_are_on_disk(config: dict[str, Any]) -> None:
    """The queues make the batches, because a batch processor would keep spans in memory only."""
    assert not any(name.startswith("batch") for name in config["processors"])
    for exporter in config["exporters"].values():
        queue = exporter["sending_queue"]
        assert queue["batch"]["min_size"] <= queue["batch"]["max_size"] <= queue["queue_size"]
        # 0 means no limit; the collector's default is five minutes.
        assert exporter["retry_on_failure"]["max_elapsed_time"] == 0


def test_the_collector_has_write_access_to_its_queue(config: dict[str, Any]) -> None:
    """A new volume belongs to root, and the image's user is 10001: without `chown` the collector does not start."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    collector, volume = services["collector"], services["volume"]
    assert f"queue:{config['extensions']['file_storage']['directory']}" in collector["volumes"]
    assert volume["volumes"] == ["queue:/queue"]
    assert volume["command"] == "chown 10001:10001 /queue"
    assert collector["depends_on"] == {"volume": {"condition": "service_completed_successfully"}}


def test_the_readme_names_its_variables(config: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{env:(\w+)\}", str(config)))
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    assert used == set(compose["services"]["collector"]["environment"])
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}=" in readme for name in used)


def test_its_sampling_keeps_the_same_sessions_as_byline(config: dict[str, Any]) -> None:
    """The collector's SHA256 function returns hex digits."""
    policies = {policy["name"]: policy for policy in config["processors"]["tail_sampling"]["policies"]}
    (condition,) = policies["a quarter of the sessions"]["ottl_condition"]["span"]
    found = re.fullmatch(r'IsMatch\(SHA256\(attributes\["session.id"\]\), "(.+)"\)', condition)
    assert found
    for number in range(500):
        session = f"session-{number}"
        kept = re.search(found[1], hashlib.sha256(session.encode()).hexdigest()) is not None
        assert kept is is_sampled(session, 0.25)


@pytest.mark.integration
def test_the_app_starts() -> None:
    env = {**os.environ, "COLLECTOR_URL": "http://collector:4318"}
    code = "import app, byline; byline.uninstrument(); print('up')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=FOLDER, env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("up\n", 0), done.stderr
