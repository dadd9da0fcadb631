"""The cache of teacher outputs: used only if it returns what the teacher would."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mm.tasks.teacher.cache import MEGABYTE, TeacherCache, TeacherOutputs

SAMPLES = 8
OBSERVED = torch.tensor([[True, True], [True, False]]).repeat(SAMPLES // 2, 1)
VALUES = torch.randn(SAMPLES, 6, 3, generator=torch.Generator().manual_seed(0))


def batch(*index: int, steps: int = 6) -> dict[str, Any]:
    rows = list(index)
    inputs = {"a": {"values": VALUES[rows, :steps], "length": torch.full((len(rows),), 2)}, "b": [VALUES[rows, 0]]}
    return {"inputs": inputs, "observed": OBSERVED[rows], "index": torch.tensor(rows)}


class Ask:
    """A teacher that counts how often it runs: a linear function of the first two steps, and of all of them."""

    def __init__(self, maps: bool = False) -> None:
        self.calls, self.maps = 0, maps
        self.shift = 0.0

    def look(self, seen: dict[str, Any]) -> TeacherOutputs:
        values = seen["inputs"]["a"]["values"]
        rows = values[:, :2].sum(1) + self.shift
        features = {"first": [rows[:, :1], 2 * rows], **({"maps": [values + self.shift]} if self.maps else {})}
        return TeacherOutputs(rows.exp(), features)

    def __call__(self, seen: dict[str, Any]) -> TeacherOutputs:
        self.calls += 1
        return self.look(seen)


def filled(ask: Ask, limit_mb: float = 1.0) -> TeacherCache:
    """After an epoch, and a first comparison."""
    cache = TeacherCache(limit_mb, batches=2)
    for rows in [(0, 1, 2, 3), (4, 5, 6, 7), (6, 1, 4, 3)]:
        cache.get(batch(*rows), lambda rows=rows: ask(batch(*rows)))  # type: ignore[misc]
    assert ask.calls == 3
    return cache


def asked(cache: TeacherCache, ask: Ask, seen: dict[str, Any]) -> int:
    """How often the teacher runs for a batch; the answer must be what it would return."""
    before = ask.calls
    found, right = cache.get(seen, lambda: ask(seen)), ask.look(seen)
    assert found.calls == right.calls
    assert all(torch.equal(one, other) for one, other in zip(found.tensors, right.tensors))
    return ask.calls - before


def test_every_company_of_known_samples_is_answered() -> None:
    ask = Ask(maps=True)
    cache = filled(ask)
    for rows in [(0,), (7, 0, 3), (5, 5, 2), tuple(range(8))]:
        assert asked(cache, ask, batch(*rows)) == 0


def test_one_unknown_sample_asks_for_all_and_is_known_then() -> None:
    ask = Ask()
    cache = filled(ask)
    del cache.entries[5]
    assert asked(cache, ask, batch(4, 5)) == 1
    assert asked(cache, ask, batch(4, 5)) == 0


def test_other_observed_modalities_are_another_question() -> None:
    ask = Ask()
    cache = filled(ask)
    other = batch(0, 1)
    other["observed"] = ~other["observed"]
    assert asked(cache, ask, other) == 1
    assert asked(cache, ask, other) == 0
    assert asked(cache, ask, batch(0, 1)) == 1
    assert asked(cache, ask, batch(2, 3)) == 0


def test_rows_are_used_at_another_length_after_a_comparison_and_maps_are_not() -> None:
    rows, maps = Ask(), Ask(maps=True)
    of_rows, of_maps = filled(rows), filled(maps)
    assert [asked(of_rows, rows, batch(0, 1, steps=4)) for _ in range(2)] == [1, 0]
    assert asked(of_rows, rows, batch(2, 3, steps=5)) == 0
    assert [asked(of_maps, maps, batch(0, 1, steps=4)) for _ in range(2)] == [1, 0]
    assert asked(of_maps, maps, batch(2, 3, steps=4)) == 1
    assert asked(of_maps, maps, batch(1, 4)) == 1, "of one the length has changed"
    assert asked(of_maps, maps, batch(6, 7)) == 0


def test_a_mixture_of_lengths_is_no_batch() -> None:
    ask = Ask(maps=True)
    cache = filled(ask)
    asked(cache, ask, batch(0, steps=4))
    assert asked(cache, ask, batch(0, 4)) == 1


def test_answers_that_change_switch_it_off(caplog: pytest.LogCaptureFixture) -> None:
    ask = Ask()
    cache = TeacherCache(1.0, batches=1)
    asked(cache, ask, batch(*range(8)))
    ask.shift = 0.1
    with caplog.at_level(logging.INFO):
        assert asked(cache, ask, batch(3, 4)) == 1
    assert "its outputs for a sample have changed: the data set or the batch alters them" in caplog.text
    assert (cache.off, cache.entries, cache.size) == (True, {}, 0)
    assert asked(cache, ask, batch(3, 4)) == 1


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, True), (torch.bfloat16, False)])
def test_rounding_is_no_change(dtype: torch.dtype, off: bool) -> None:
    cache, values = TeacherCache(1.0, batches=1), VALUES[:, 0]
    cache.get(batch(*range(8)), lambda: TeacherOutputs(values.to(dtype), {}))
    cache.get(batch(*range(8)), lambda: TeacherOutputs((1.005 * values).to(dtype), {}))
    assert cache.off is off
    cache = TeacherCache(1.0, batches=1)
    cache.get(batch(*range(8)), lambda: TeacherOutputs(values, {}))
    with torch.autocast("cpu", torch.bfloat16):
        cache.get(batch(*range(8)), lambda: TeacherOutputs(1.005 * values, {}))
    assert not cache.off


def second_axis(seen: dict[str, Any]) -> Tensor:
    """Steps first; four of four samples look like samples first."""
    return VALUES[seen["index"].tolist(), :4].transpose(0, 1).contiguous()


def test_samples_on_another_axis_are_found_out() -> None:
    cache = TeacherCache(1.0, batches=2)
    for rows in [(0, 1, 2, 3), (4, 5, 6, 7), (6, 1, 4, 3)]:
        seen = batch(*rows)
        found = cache.get(seen, lambda seen=seen: TeacherOutputs(second_axis(seen), {}))  # type: ignore[misc]
        assert torch.equal(found.outputs, second_axis(seen))
    assert cache.off


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"logits": torch.zeros(4, 2)}, "not all outputs and features are tensors of floats with the samples first"),
        (torch.zeros(2, 4), "not all outputs and features"),
        (torch.zeros(4, 2, dtype=torch.int64), "not all outputs and features"),
        (torch.zeros(4, MEGABYTE // 16), "an epoch takes 2 MB, more than distillation.cache_mb 1"),
    ],
)
def test_what_cannot_be_kept_is_told(outputs: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = TeacherCache(1.0, batches=2)
    with caplog.at_level(logging.INFO):
        assert cache.get(batch(0, 1, 2, 3), lambda: TeacherOutputs(outputs, {})).outputs is outputs
    assert f"teacher: one more forward in every step, because {reason}" in caplog.text
    assert (cache.off, cache.entries) == (True, {})


def test_samples_without_an_index_are_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    cache, ask = TeacherCache(1.0, batches=2), Ask()
    seen = {**batch(0, 1), "index": torch.tensor([-1, -1])}
    with caplog.at_level(logging.INFO):
        assert [asked(cache, ask, seen) for _ in range(2)] == [1, 1]
    assert "because the samples carry no index" in caplog.text


def test_the_limit_holds_for_later_batches_too(caplog: pytest.LogCaptureFixture) -> None:
    cache = TeacherCache(1.0, batches=2)
    for columns in (1, 5):  # the second time it is another question, whose answer takes the place of the first
        seen = {**batch(0, 1), "observed": torch.full((2, 2), columns == 1)}
        cache.get(seen, lambda columns=columns: TeacherOutputs(torch.zeros(2, columns), {}))  # type: ignore[misc]
        assert cache.size == 2 * 4 * columns / MEGABYTE
    with caplog.at_level(logging.INFO):
        cache.get(batch(2, 3), lambda: TeacherOutputs(torch.zeros(2, MEGABYTE // 8), {}))
    assert cache.off
    assert "because its outputs take more than distillation.cache_mb 1" in caplog.text
