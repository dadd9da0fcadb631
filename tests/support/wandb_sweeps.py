"""The W&B server on loopback with sweeps: it keeps their config, and gives agents one run after the other."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import yaml

from tests.support.wandb_server import ENTITY, Server, gid

SWEEP_KEYS = ("name", "project", "program", "command", "method", "metric", "run_cap", "parameters")
PARAMETER_KEYS = ({"value"}, {"values"}, {"distribution", "min", "max"})


@dataclass
class StoredSweep:
    """A sweep with the runs that agents were told to make."""

    name: str
    config: dict[str, Any]
    waiting: Iterator[dict[str, Any]]
    given: dict[str, dict[str, Any]] = field(default_factory=dict)


class SweepServer(Server):
    """Knows the sweeps of one project too; a sweep whose config W&B would refuse is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps: dict[str, StoredSweep] = {}
        self.agents: dict[str, StoredSweep] = {}

    def on_organizationcoreweaveorganizationid(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_upsertsweep(self, given: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(given["config"])
        check(config)
        name = f"sweep{len(self.sweeps) + 1}"
        self.sweeps[name] = StoredSweep(name, config, islice(drawn(config), config.get("run_cap")))
        project = {"id": "project", "name": given["projectName"], "entity": {"id": "entity", "name": ENTITY}}
        sweep = {"name": name, "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def on_sweepwithruns(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[given["sweep"]]
        answer = {"id": gid(f"Sweep:{sweep.name}"), "name": sweep.name, "method": sweep.config["method"]}
        answer |= {"config": yaml.safe_dump(sweep.config), "state": "RUNNING", "createdAt": "2026-01-01T00:00:00"}
        answer |= dict.fromkeys(
            ("description", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler"), None
        )
        return {"project": {"sweep": {**answer, "earlyStopJobRunning": False, "runs": {"edges": []}}}}

    def on_createagent(self, given: dict[str, Any]) -> dict[str, Any]:
        name = gid(f"Agent:{len(self.agents) + 1}")
        self.agents[name] = self.sweeps[given["sweep"]]
        return {"createAgent": {"agent": {"id": name}}}

    def on_heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = self.agents[given["id"]]
        busy = any(json.loads(given.get("runState") or "{}").values())
        following = None if busy else next(sweep.waiting, None)
        commands: list[dict[str, Any]] = [] if busy else [{"type": "exit"}]
        if following is not None:
            name = f"{sweep.name}run{len(sweep.given)}"
            sweep.given[name] = following
            args = {key: {"value": value} for key, value in following.items()}
            commands = [{"type": "run", "run_id": name, "program": sweep.config["program"], "args": args}]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}


def check(config: dict[str, Any]) -> None:
    """Refuse what W&B does not know."""
    assert set(config) <= set(SWEEP_KEYS), set(config) - set(SWEEP_KEYS)
    assert config["method"] in ("grid", "random")
    assert config["metric"]["goal"] in ("minimize", "maximize")
    for name, one in config["parameters"].items():
        assert set(one) in PARAMETER_KEYS, name
        assert one.get("distribution", "uniform") in ("uniform", "int_uniform", "log_uniform_values"), name
        assert config["method"] == "random" or "min" not in one, f"{name}: a grid needs values"


def drawn(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of one run after the other."""
    every = config["parameters"]
    if config["method"] == "grid":
        yield from (dict(zip(every, row)) for row in product(*(_listed(one) for one in every.values())))
        return
    numbers = random.Random(0)
    while True:
        yield {name: _draw(one, numbers) for name, one in every.items()}


def _listed(one: dict[str, Any]) -> list[Any]:
    return [one["value"]] if "value" in one else list(one["values"])


def _draw(one: dict[str, Any], numbers: random.Random) -> Any:
    if "min" not in one:
        return numbers.choice(_listed(one))
    if one["distribution"] == "int_uniform":
        return numbers.randint(one["min"], one["max"])
    if one["distribution"] == "uniform":
        return numbers.uniform(one["min"], one["max"])
    return math.exp(numbers.uniform(math.log(one["min"]), math.log(one["max"])))
