"""The same study with a server on loopback, killed at five points one after the other and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.results import read
from tests.support.recorded_study import FINGERPRINT, POINTS, PROJECT, SECRET
from tests.support.repository import REPOSITORY
from tests.support.wandb_server import Server, environment, running_server

KILLS = {"opened": 2, "figures": 0, "artifacts": 0, "pictures": 1, "finished": 0}
"""Point to the position of the run among those that are opened. Of four the first two are done (the base and
``zero_fill``) when that of ``adapted`` is killed three times; then the one of the study, the last, twice."""


def start(folder: Path, server: Server, *kill: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.recorded_study", str(folder), "online", *kill]
    known = {
        **os.environ,
        **environment(server, str(folder / "client")),
        "LIGHTNING_MM_TEST_SECRET": "of-the-environment",
    }
    known.pop("WANDB_SERVICE", None)  # the client of this process, which would outlive the killed one
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=known, timeout=180, check=False)


@pytest.fixture(scope="module")
def killed_five_times(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("online")
    with running_server() as server:
        assert set(KILLS) == set(POINTS)
        for point, which in KILLS.items():
            died = start(folder, server, point, str(which))
            assert died.returncode == -signal.SIGKILL, died.stderr
            assert len(read(folder / "report").rows) == 14, "the table is complete whatever happens to W&B"
        done = start(folder, server)
        assert done.returncode == 0, done.stderr
        asked = len(server.asked)
        again = start(folder, server)
        assert again.stdout == done.stdout
        assert len(server.asked) == asked, "a recorded study asks the server for nothing"
        yield folder, server, json.loads(done.stdout)


@pytest.mark.slow
def test_every_run_is_there_once_and_complete(killed_five_times: Any) -> None:
    folder, server, ids = killed_five_times
    assert sorted(server.runs) == sorted(ids.values())
    assert not server.unknown
    result = read(folder / "report")
    for key, name in ids.items():
        run = server.runs[name]
        assert run.project == PROJECT
        assert run.exit == 0
        assert not [offset for offset, count in Counter(run.writes).items() if count > 1], "no line is sent twice"
        assert [line["_step"] for line in run.history] == list(range(len(run.history)))
        if key.startswith(("zero_fill", "adapted")):
            method, seed = key.split("/seed")
            values = {k: v for line in run.history for k, v in line.items()}
            for row in result.rows:
                if (row.method, row.seed) == (method, int(seed)):
                    assert values[f"sweep/{row.combination}/{row.metric}"] == row.value
            assert [line["curve/missing"] for line in run.history if "curve/missing" in line] == [0, 1, 2]
            assert run.summary["summary/mean"] == pytest.approx(
                sum(r.value for r in result.rows if (r.method, r.seed) == (method, int(seed)) and r.n_available < 3) / 6
            )


@pytest.mark.slow
def test_tables_and_pictures_have_arrived(killed_five_times: Any) -> None:
    folder, server, ids = killed_five_times
    for key, name in ids.items():
        run = server.runs[name]
        media = [
            part["path"] for line in run.history for part in line.values() if isinstance(part, dict) and "path" in part
        ]
        assert set(media) <= set(run.files), key
        if key == "study":
            assert any(path.startswith("media/images/sweep/heat_map") for path in media)
            (table,) = [path for path in media if path.startswith("media/table/sweep/table")]
            rows = json.loads(run.files[table])["data"]
            assert [line[4] for line in rows] == [row.value for row in read(folder / "report").rows]


@pytest.mark.slow
def test_artifacts_are_stored_once_with_their_base(killed_five_times: Any) -> None:
    _, server, ids = killed_five_times
    found = {(one.name, one.digest): one for one in server.artifacts.values()}
    assert len(found) == len(server.artifacts)
    assert all(one.state == "COMMITTED" for one in found.values())
    (adapter,) = [one for one in found.values() if one.kind == "adapter"]
    assert (adapter.name, adapter.run) == ("adapter-tiny-adapted-seed1", ids["adapted/seed1"])
    assert adapter.files["adapter_model.safetensors"] == b"weights seed1"
    (table,) = [one for one in found.values() if one.kind == "table"]
    assert table.run == ids["study"]
    (base,) = [one for one in found.values() if one.kind == "base"]
    assert base.metadata["fingerprint"] == FINGERPRINT
    assert base.run == ids["base/seed1"]
    assert set(base.uses) == {ids["zero_fill/seed1"], ids["adapted/seed1"]}
    assert adapter.metadata["base"] == {"artifact": base.name, "fingerprint": FINGERPRINT}


@pytest.mark.slow
def test_no_secret_reaches_the_server(killed_five_times: Any) -> None:
    _, server, ids = killed_five_times
    for run in server.runs.values():
        content = json.dumps(run.meta) + "".join(map(str, run.lines.values())) + repr(run.files)
        assert SECRET not in content
        assert "of-the-environment" not in content
    assert "***" in json.dumps(server.runs[ids["study"]].meta)
