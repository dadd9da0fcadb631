"""Every line of a fit is written once, wherever it was killed and however much W&B had lost by then."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lightning_mm.tracking import history
from lightning_mm.tracking.history import History
from lightning_mm.tracking.identity import Lines

STEPS = 12
Store = dict[int, dict[str, Any]]


def writer(store: Store) -> Any:
    def write(values: dict[str, Any], step: int) -> int:
        assert step > max(store, default=-1), "strictly rising"
        store[step] = dict(values)
        return step

    return write


def log_step(log: History, step: int) -> None:
    """What a training logs in one step: at its end, and in every third one after a validation."""
    log.close(before=step)
    log.add(step, {"lr": 1.0, "step": step})
    log.add(step, {"loss": step / 2, "step": step})
    if step % 3 == 2:
        log.add(step, {"val": step / 3, "step": step})


def uninterrupted() -> Store:
    store: Store = {}
    log = History(writer(store))
    for step in range(STEPS):
        log_step(log, step)
    log.end(finished=True)
    return store


@pytest.mark.parametrize("lost", [0, 1, 3, STEPS])
def test_a_killed_and_resumed_fit_has_every_line_once(lost: int) -> None:
    whole = uninterrupted()
    assert [line["step"] for line in whole.values()] == list(range(STEPS))
    for every, killed in itertools.product((2, 3, 5), range(STEPS)):
        store: Store = {}
        log = History(writer(store))
        saved: tuple[int, Lines] | None = None
        for step in range(killed + 1):
            log_step(log, step)
            if step % every == every - 1:  # after the validation of this step
                saved = step + 1, log.keep(step, {})
        for step in sorted(store)[max(len(store) - lost, 0) :]:
            del store[step]
        start, lines = saved or (0, [])
        log = History(writer(store), known=max(store, default=-1))
        log.bring_back(lines)
        for step in range(start, STEPS):
            log_step(log, step)
        log.end(finished=True)
        assert store == whole, f"killed in step {killed}, saved every {every}"


def test_a_stop_within_a_step_leaves_its_line_to_the_resume() -> None:
    store: Store = {}
    log = History(writer(store))
    log_step(log, 0)
    log.add(1, {"lr": 1.0})
    lines = log.keep(1, {"loss": 0.5})  # the batch ends, its figures are logged after the checkpoint is written
    log.end(finished=False)
    assert sorted(store) == [0]
    assert lines == [(0, {"lr": 1.0, "loss": 0.0, "step": 0}), (1, {"lr": 1.0, "loss": 0.5})]
    log = History(writer(store), known=0)
    log.bring_back(lines)
    log.add(1, {"val": 0.25})  # its validation
    log.end(finished=True)
    assert store[1] == {"lr": 1.0, "loss": 0.5, "val": 0.25}


def test_without_a_checkpoint_a_crash_shows_the_last_line() -> None:
    store: Store = {}
    log = History(writer(store))
    log.add(4, {"loss": float("nan")})
    log.end(finished=False)
    assert sorted(store) == [4]


def test_a_checkpoint_keeps_the_last_minute_and_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(history.time, "monotonic", lambda: now[0])
    log = History(writer({}))
    for step in range(4):
        log.close(before=step)
        log.add(step, {"loss": step, "picture": object()})
        now[0] += 25.0
    log.close()
    assert [step for step, _ in log.keep(4, {})] == [1, 2, 3], "written 50, 25 and 0 seconds ago"
    assert log.keep(4, {})[0][1] == {"loss": 1}
    log.lost_since = 130.0
    assert [step for step, _ in log.keep(4, {})] == [0, 1, 2, 3], "W&B has failed: all lines since then"


def test_lines_that_others_have_logged_move_the_steps_of_wandb() -> None:
    log = History(lambda values, step: step + 2)
    log.add(0, {"loss": 1.0})
    log.close()
    assert (log.step, log.ahead) == (0, 2)
