"""Encoders run once per batch instead of once per combination, and no figure changes."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lightning_mm import Modalities
from lightning_mm.adapters import adapt
from lightning_mm.results.result import SweepResult
from lightning_mm.sweep import sweep
from lightning_mm.sweep.module import Run, SweepModule
from lightning_mm.sweep.reuse import Memory, copied, same_values
from lightning_mm.tree import leaves_of
from tests.support import every_kind
from tests.support.adapter_networks import randomise
from tests.support.reuse_networks import (
    NAMES,
    ChangedInPlace,
    ChangesInputs,
    ClipsInputs,
    CountsCalls,
    Encoder,
    Four,
    MakesTables,
    OneFromAnother,
    OnTheObject,
    OutputTask,
    Plain,
    Random,
    ReadsAttributes,
    SetByBatch,
    TakesAvailable,
    Twice,
    loader,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*layers are left out of the adapter"),
]
ENCODERS = [f"model.encoders.{name}" for name in NAMES]
BATCH = 4
"""Samples of a batch: more than those of a trial."""


@pytest.fixture(autouse=True)
def short_sweeps_try_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_mm.sweep.module.FEWEST_SAMPLES", 0)
    monkeypatch.setattr("lightning_mm.sweep.module.FEWEST_COSTED", 0)  # measuring is the first call, as in a long sweep


def test_only_long_sweeps_try(monkeypatch: pytest.MonkeyPatch) -> None:
    task, few = OutputTask(Plain()), 3 * BATCH
    for fewest, reused in ((few, ENCODERS), (few + 1, "none: in a short sweep a trial takes longer than it saves")):
        monkeypatch.setattr("lightning_mm.sweep.module.FEWEST_SAMPLES", fewest)
        assert run(task, samples=few).config["reused"] == {"zero_fill": reused}


def run(task: OutputTask, reuse: bool = True, combinations: Sequence[str] | None = None, **data: Any) -> SweepResult:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    torch.manual_seed(1)
    batches = loader(**{"batch_size": BATCH, **data})
    return sweep(
        task, batches, combinations=combinations, trainer=trainer, bootstrap=0, modalities=task.modalities, reuse=reuse
    )


def check_same(fast: SweepResult, slow: SweepResult) -> None:
    """Every output of every sample is the same to 1e-6, and so is every figure."""
    assert list(fast.samples) == list(slow.samples)
    for name, values in slow.samples.items():
        np.testing.assert_allclose(fast.samples[name], values, rtol=0, atol=1e-6, err_msg=name)
    for one, other in zip(fast.rows, slow.rows, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


def calls(task: OutputTask) -> list[int]:
    """Whole batches that each encoder ran on; the trial's calls have fewer samples."""
    encoders: Any = task.model.encoders
    return [sum(size == BATCH for size in encoder.sizes) for encoder in encoders.values()]


def test_encoders_of_a_base_run_once_per_batch() -> None:
    fast, slow = OutputTask(Plain()), OutputTask(Plain())
    quick, plain = run(fast), run(slow, reuse=False)
    check_same(quick, plain)
    assert all((quick.samples[name] == values).all() for name, values in plain.samples.items())  # bit for bit
    assert calls(slow) == [14, 14, 14]  # two batches of four samples, seven combinations
    assert calls(fast) == [4, 4, 4]  # once for each batch, and the fill in both: in the second to compare
    assert quick.config["reused"] == {"zero_fill": ENCODERS}
    assert "reused" not in plain.config
    assert not [module for module in fast.modules() if "forward" in vars(module)]


def test_four_modalities_need_one_run_per_batch_instead_of_fifteen() -> None:
    names, task, sizes = Modalities(["a", "b", "c", "d"]), OutputTask(Four()), {}
    task.modalities = names
    for batches in (2, 5):
        for encoder in task.model.encoders.values():
            encoder.sizes.clear()
        run(task, samples=batches * BATCH, names=names)
        sizes[batches] = calls(task)
    assert sizes == {2: [4] * 4, 5: [7] * 4}  # two more for the fill


@pytest.mark.parametrize(
    ("kind", "behind"),
    [(kind, behind) for kind in every_kind.KINDS for behind in (True, False) if not behind or "Features" not in kind],
)
def test_every_kind_of_adapter(kind: str, behind: bool) -> None:
    torch.manual_seed(0)
    network = every_kind.Network().eval()
    every_kind.trained_statistics(network)
    where = {"exclude": ["encoders.*"]} if behind else {}
    adapted = adapt(network, NAMES, every_kind.KINDS[kind](), example=((), every_kind.inputs(2)), **where)
    randomise(adapted.adapter)
    task = OutputTask(network, adapter=adapted.adapter)
    fast, slow = run(task), run(task, reuse=False)
    check_same(fast, slow)
    assert fast.methods == ["zero_fill", "adapted"]
    assert fast.config["reused"]["zero_fill"] == ENCODERS
    sites = [site.name for site in adapted.adapter.sites]
    if not any(name.startswith("encoders.") for name in sites):
        assert fast.config["reused"]["adapted"] == ENCODERS
    else:
        assert not set(fast.config["reused"]["adapted"]) & {*ENCODERS, *(f"model.{name}" for name in sites)}


def test_encoders_run_once_for_both_methods_of_a_task() -> None:
    network = Plain().eval()
    example = ((), {name: torch.randn(2, 4) for name in NAMES})
    adapted = adapt(network, NAMES, every_kind.KINDS["SSF"](), example=example, exclude=["encoders.*"])
    randomise(adapted.adapter)
    task = OutputTask(network, adapter=adapted.adapter)
    for encoder in network.encoders.values():
        encoder.sizes.clear()
    fast = run(task)
    assert fast.config["reused"] == {"zero_fill": ENCODERS, "adapted": ENCODERS}
    assert calls(task) == [2, 2, 2]  # absent samples share one row
    check_same(fast, run(task, reuse=False))


@pytest.mark.parametrize("network", [ChangedInPlace, Twice, OneFromAnother, Plain])
@pytest.mark.parametrize("gaps", [False, True])
def test_networks_of_which_modules_are_reused(network: type[Plain], gaps: bool) -> None:
    task = OutputTask(network())
    fast = run(task, gaps=gaps)
    check_same(fast, run(task, reuse=False, gaps=gaps))
    assert isinstance(fast.config["reused"]["zero_fill"], list)
    assert "model.encoders.a" in fast.config["reused"]["zero_fill"]


def test_a_network_that_takes_available() -> None:
    task = OutputTask(TakesAvailable(), pass_available=True)
    fast = run(task)
    check_same(fast, run(task, reuse=False))
    assert fast.config["reused"] == {"zero_fill": ENCODERS}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (ReadsAttributes, "outputs of '[a-c+]+' differ if those of .*model.encoders.a.* are reused"),
        (CountsCalls, "buffer 'model.encoders.a.calls' changes when the task runs"),
    ],
)
def test_networks_that_are_swept_the_slow_way(network: type[Plain], reason: str) -> None:
    fast, slow = run(OutputTask(network())), run(OutputTask(network()), reuse=False)
    check_same(fast, slow)
    assert isinstance(fast.config["reused"]["zero_fill"], str)
    assert re.fullmatch(f"none: {reason}", fast.config["reused"]["zero_fill"])


@pytest.mark.parametrize("network", [OnTheObject, Random, ChangesInputs])
def test_encoders_that_are_not_reused(network: type[Plain]) -> None:
    """Layers inside them may be; the random numbers drawn are the same."""
    fast, slow = run(OutputTask(network())), run(OutputTask(network()), reuse=False)
    check_same(fast, slow)
    assert not set(ENCODERS) & set(fast.config["reused"]["zero_fill"])


def test_buffers_that_get_another_size_in_the_first_call() -> None:
    fast, slow = run(OutputTask(MakesTables())), run(OutputTask(MakesTables()), reuse=False)
    assert fast.config["reused"] == {"zero_fill": ENCODERS}
    check_same(fast, slow)
    inputs = {name: torch.cat([batch["inputs"][name] for batch in loader()]) for name in NAMES}
    with torch.no_grad():
        expected = MakesTables().eval()(**inputs).double().numpy()
    np.testing.assert_allclose(fast.samples["zero_fill/a+b+c/output"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, BATCH])
def test_state_that_differs_from_batch_to_batch(batch_size: int) -> None:
    """``b`` is absent in both combinations, so its encoder gets the same input, and the same state within a batch."""
    both: dict[str, Any] = {"combinations": ["a", "a+c"], "batch_size": batch_size}
    fast, slow = run(OutputTask(SetByBatch()), **both), run(OutputTask(SetByBatch()), reuse=False, **both)
    assert ENCODERS[1] in fast.config["reused"]["zero_fill"]
    check_same(fast, slow)


def test_inputs_that_are_changed_after_the_trial_only() -> None:
    fast, slow = run(OutputTask(ClipsInputs())), run(OutputTask(ClipsInputs()), reuse=False)
    assert ENCODERS[0] in fast.config["reused"]["zero_fill"]  # the samples of the trial are not clipped
    check_same(fast, slow)


def test_processes_that_share_a_network_all_run_it(tmp_path: Path) -> None:
    task: Any = OutputTask(Plain())
    runs = [Run("zero_fill", 0, tuple(NAMES.combinations()))]
    module = SweepModule([task], runs, NAMES, tmp_path / "collected.pt").eval()
    module._trainer = SimpleNamespace(strategy="fsdp", world_size=2)  # type: ignore[assignment]
    with torch.no_grad():
        module.test_step(next(iter(loader(batch_size=BATCH))), 0)
    assert calls(task) == [7, 7, 7]
    assert module._repeated[0].record() == "none: processes that share a network must all run it"


def test_hooks_of_users_see_every_call() -> None:
    seen: list[int] = []
    outer, inner = OutputTask(Plain()), OutputTask(Plain())
    networks: Any = (outer.model, inner.model)
    networks[0].encoders["a"].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    networks[1].encoders["a"].layer.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    assert run(outer).config["reused"]["zero_fill"] == ENCODERS
    assert seen.count(BATCH) == 14
    seen.clear()
    # its own hooks run outside of the layer's forward, inside of the encoder's
    assert run(inner).config["reused"]["zero_fill"] == [f"{ENCODERS[0]}.layer", *ENCODERS[1:]]
    assert seen.count(BATCH) == 14


@pytest.mark.compiled
def test_compiled_networks_are_left_alone() -> None:
    network = Plain()
    network.encoders["a"] = torch.compile(network.encoders["a"], backend="eager")  # type: ignore[assignment]
    fast = run(OutputTask(network))
    assert fast.config["reused"]["zero_fill"] == ENCODERS[1:]
    whole: Any = torch.compile(Plain(), backend="eager")
    fast = run(OutputTask(whole))
    assert fast.config["reused"] == {
        "zero_fill": "none: no module could run alone, since it is compiled, adapted, or has hooks inside"
    }


def test_what_is_kept_is_of_one_batch() -> None:
    memory, layer = Memory(most=3), Encoder().eval()
    plain = layer.forward
    with torch.no_grad(), memory.used_by([layer]):
        for batch in range(5):
            inputs = [torch.randn(2, 4), torch.zeros(2, 4), torch.randn(2, 4), torch.randn(2, 4)]
            for x in (*inputs, *inputs):
                torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
            assert len(memory._kept[layer]) == 3
            memory.end_batch()
            assert [one.constant for one in memory._kept[layer]] == [True], batch
    layer.sizes.clear()
    layer(torch.zeros(2, 4))
    assert layer.sizes == [2]


def test_other_threads_and_gradients_run_the_module() -> None:
    memory, layer, x = Memory(most=3), Encoder().eval(), torch.randn(2, 4)
    with torch.no_grad(), memory.used_by([layer]):
        layer(x), layer(x)
        assert layer.sizes == [2]
        thread = threading.Thread(target=layer, args=(x,))
        thread.start()
        thread.join()
        assert layer.sizes == [2, 2]
        with torch.enable_grad():
            assert layer(x).requires_grad
        assert layer.sizes == [2, 2, 2]


def test_values_are_compared() -> None:
    def same(one: Any, other: Any) -> bool:
        return same_values(leaves_of(one), leaves_of(other))

    x = torch.tensor([[1.0, float("nan")]])
    assert same({"x": torch.ones(2), "n": 3}, {"x": torch.ones(2), "n": 3})
    for other in ({"x": torch.ones(3)}, {"x": torch.ones(2).double()}, {"y": torch.ones(2)}, {"x": None}, {}):
        assert not same({"x": torch.ones(2)}, other)
    assert not same([x], [x])  # NaN is not equal to itself: such a call runs again
    first, second = copied([x, x])
    assert first is second is not x
