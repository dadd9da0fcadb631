"""The sweep against a slow loop: figures, counts, adapters, dedicated networks, several processes, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from tests.support.sweep_tasks import NAMES, SAMPLES, Scores, ScoresModule, Switch, VoteTask, expected_accuracy, loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    # Lightning 2.6 asks torch 2.15 in a way that is going out of use.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

BIAS = [0.4, -0.2, 0.3]


def quiet(**settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, **{"devices": 1, **settings},
    )  # fmt: skip


@pytest.mark.parametrize("gaps", [False, True])
def test_equals_a_slow_loop_over_samples(gaps: bool) -> None:
    dataset = Scores(gaps=gaps)
    task = VoteTask(NAMES, scale=[1.0, 2.0, 0.5], bias=BIAS)
    result = sweep(task, ScoresModule(dataset), trainer=quiet(), bootstrap=0, seed=3)

    assert result.methods == ["zero_fill", "adapted"]
    assert result.combinations == list(Modalities(NAMES).combinations())
    for method, bias in {"zero_fill": [0.0] * 3, "adapted": BIAS}.items():
        for combination in result.combinations:
            expected = expected_accuracy(dataset, [1.0, 2.0, 0.5], bias, combination.split("+"))
            assert result.value(method, combination) == pytest.approx(expected)
            assert result.value(method, combination, "error") == pytest.approx(1 - expected)
    for row in result.rows:
        observed = dataset.observed[:, [NAMES.index(name) for name in row.combination.split("+")]].all(1)
        assert (row.n, row.seed) == (int(observed.sum()), 3)
        assert row.n_available == row.combination.count("+") + 1
    assert dataset.observed.all() == (not gaps)


def test_every_sample_is_loaded_once() -> None:
    dataset = Scores()
    sweep({"a": VoteTask(NAMES), "b": VoteTask(["rgb"])}, loader(dataset), trainer=quiet(), bootstrap=0)
    assert dataset.reads == SAMPLES


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    dataset = Scores(gaps=True)
    reference = sweep(VoteTask(NAMES), loader(dataset), trainer=quiet(), bootstrap=20)
    again = sweep(VoteTask(NAMES), loader(dataset, batch_size), trainer=quiet(), bootstrap=20)
    assert again.rows == reference.rows


def test_order_of_samples_does_not_matter() -> None:
    dataset = Scores(gaps=True)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = torch.utils.data.DataLoader(dataset, batch_size=4, sampler=order)
    reference = sweep(VoteTask(NAMES), loader(dataset), trainer=quiet(), bootstrap=20)
    again = sweep(VoteTask(NAMES), shuffled, trainer=quiet(), bootstrap=20)
    assert again.rows == reference.rows
    for key, values in reference.samples.items():
        assert (again.samples[key] == values).all(), key


def test_columns_are_chosen_by_name() -> None:
    dataset = Scores(gaps=True)
    task = VoteTask(["thermal", "depth"], scale=[0.5, 2.0])
    result = sweep({"swapped": task}, ScoresModule(dataset), trainer=quiet(), bootstrap=0)
    assert result.combinations == ["depth", "thermal", "depth+thermal"]
    for combination in result.combinations:
        expected = expected_accuracy(dataset, [1.0, 2.0, 0.5], [0.0] * 3, combination.split("+"))
        assert result.value("swapped", combination) == pytest.approx(expected)
    assert result.full_combination == "rgb+depth+thermal"


def test_dedicated_networks_run_their_own_combination_only() -> None:
    methods = {"zero_fill": VoteTask(NAMES), "dedicated": [VoteTask(["rgb"]), VoteTask(["rgb", "depth"])]}
    result = sweep(methods, loader(Scores()), trainer=quiet(), bootstrap=9)
    assert list(result.values("dedicated")) == ["rgb", "rgb+depth"]
    assert result.parameters["dedicated"]["trained"] == 3


def test_dedicated_networks_with_more_inputs_run_what_they_were_trained_for() -> None:
    dataset, task = Scores(), VoteTask(NAMES)
    settings: dict[str, Any] = {"trainer": quiet(), "bootstrap": 0, "dedicated_to": ["depth+rgb", "thermal"]}
    result = sweep({"zero_fill": VoteTask(NAMES), "dedicated": [task]}, loader(dataset), **settings)
    assert list(result.values("dedicated")) == ["thermal", "rgb+depth"]
    assert len(result.values("zero_fill")) == 7
    expected = expected_accuracy(dataset, [1.0] * 3, [0.0] * 3, ["rgb", "depth"])
    assert result.value("dedicated", "rgb+depth") == pytest.approx(expected)
    message = r"can run any of the combinations \['rgb'\]; dedicated networks are only for \['rgb\+depth', 'thermal'\]"
    with pytest.raises(LightningMMError, match=message):
        sweep({"dedicated": [task]}, loader(dataset), combinations=["rgb"], **settings)


def test_adapter_under_another_name_and_parameters() -> None:
    task = VoteTask(NAMES, bias=BIAS)
    result = sweep({"zero_fill": VoteTask(NAMES), "ssf": task}, loader(Scores()), trainer=quiet(), bootstrap=0)
    assert result.methods == ["zero_fill", "ssf"]
    assert result.parameters["ssf"] == {"trained": 3, "base": 3, "per_combination": 2}
    assert result.parameters["zero_fill"]["trained"] == 3
    both = sweep({"ssf": task, "other": VoteTask(NAMES, bias=BIAS)}, loader(Scores()), trainer=quiet(), bootstrap=0)
    assert both.methods == ["zero_fill", "ssf", "other"]
    assert both.values("zero_fill") == result.values("zero_fill")
    assert both.values("ssf") == result.values("ssf") == both.values("other")


def test_parameters_are_those_that_a_method_trains_and_those_of_the_network() -> None:
    task = VoteTask(NAMES, bias=BIAS)
    task.auxiliary = torch.nn.Linear(5, 2)  # heads of the training loss are no part of the network
    result = sweep(task, loader(Scores()), trainer=quiet(), bootstrap=0)
    assert result.parameters == {
        "zero_fill": {"trained": 0, "base": 3},
        "adapted": {"trained": 3, "base": 3, "per_combination": 2},
    }
    plain = VoteTask(NAMES)
    plain.auxiliary = torch.nn.Linear(5, 2)
    alone = sweep(plain, loader(Scores()), trainer=quiet(), bootstrap=0)
    assert alone.parameters["zero_fill"] == {"trained": 3, "base": 3}


def test_an_adapter_is_told_what_is_available() -> None:
    class Told(Switch):
        """An adapter of a network whose forward takes no `available`: it must be told before the call."""

        masks: list[list[bool]] = []  # noqa: RUF012

        @contextmanager
        def using(self, available: torch.Tensor) -> Iterator[None]:
            self.masks.extend(available.tolist())
            yield

    task = VoteTask(["depth", "rgb"])
    task.adapter = Told(BIAS)
    sweep(task, loader(Scores(size=2)), trainer=quiet(), bootstrap=0, modalities=["rgb", "depth", "thermal"])
    # two samples; off and on; columns in the order of the task, combinations in that of the data
    once = [[False, True]] * 2 + [[True, False]] * 2 + [[True, True]] * 2
    assert task.adapter.masks == once * 2


def test_chosen_combinations_split_and_missing_index() -> None:
    class NoIndex(Scores):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {key: value for key, value in super().__getitem__(index).items() if key in ("inputs", "target")}

    reference = sweep(VoteTask(NAMES), loader(Scores()), trainer=quiet(), bootstrap=0, combinations=["depth+rgb"])
    result = sweep(
        VoteTask(NAMES), loader(NoIndex()), trainer=quiet(), bootstrap=0, combinations=["rgb+depth"], split="val"
    )
    assert result.rows == reference.rows
    assert result.combinations == ["rgb+depth"]
    assert (reference.config["split"], result.config["split"]) == ("test", "val")


def test_only_progress_bars_take_part_and_the_trainer_is_left_as_it_was() -> None:
    class Meddler(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            raise AssertionError("callbacks of a fit must not see the sweep")

    meddler = Meddler()
    trainer = quiet(callbacks=[meddler])
    task = VoteTask(NAMES).train()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    sweep(task, loader(Scores()), trainer=trainer, bootstrap=0)
    assert meddler in trainer.callbacks
    assert task.training
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_count_every_sample_once() -> None:
    # 11 samples over 2 processes: the sampler repeats one.
    dataset = Scores(gaps=True)
    reference = sweep(VoteTask(NAMES, bias=BIAS), loader(dataset), trainer=quiet(), bootstrap=50)
    both = sweep(
        VoteTask(NAMES, bias=BIAS), loader(dataset), trainer=quiet(devices=2, strategy="ddp_spawn"), bootstrap=50
    )
    assert both.rows == reference.rows
    assert both.samples["index"].tolist() == list(range(SAMPLES))


def test_intervals_of_identical_methods_are_paired() -> None:
    result = sweep({"a": VoteTask(NAMES), "b": VoteTask(NAMES)}, loader(Scores()), trainer=quiet(), bootstrap=100)
    assert result.bootstrap is not None
    assert result.bootstrap.difference_interval("a", "b", "accuracy", result.incomplete) == (0.0, 0.0)
    low, high = result.figures("a").mean().interval or (1.0, 0.0)
    assert low < result.mean("a") < high
    row = result.rows[0]
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.value <= row.high


def test_mistakes_have_one_clear_message() -> None:
    data, task = loader(Scores()), VoteTask(NAMES)
    with pytest.raises(LightningMMError, match="unknown modality 'lidar'"):
        sweep(task, data, trainer=quiet(), combinations=["rgb+lidar"])
    with pytest.raises(LightningMMError, match="cannot be swept: it has no 'modalities'"):
        sweep(torch.nn.Linear(2, 2), data, trainer=quiet())
    with pytest.raises(LightningMMError, match=r"needs modality 'text'; the data has \['rgb', 'depth', 'thermal'\]"):
        sweep({"x": VoteTask(["text"])}, ScoresModule(Scores()), trainer=quiet())
    with pytest.raises(LightningMMError, match="no method can run"):
        sweep({"x": VoteTask(["rgb"])}, ScoresModule(Scores()), trainer=quiet(), combinations=["depth"])
    with pytest.raises(LightningMMError, match="occurs twice for combination 'rgb'"):
        sweep({"dedicated": [VoteTask(["rgb"]), VoteTask(["rgb"])]}, data, trainer=quiet())
    with pytest.raises(LightningMMError, match="without '/'"):
        sweep({"a/b": task}, data, trainer=quiet())
    with pytest.raises(LightningMMError, match="one or more methods"):
        sweep({}, data, trainer=quiet())


@pytest.mark.wrong_types
def test_a_split_that_cannot_be_swept() -> None:
    data, task = loader(Scores()), VoteTask(NAMES)
    with pytest.raises(LightningMMError, match="split must be"):
        sweep(task, data, trainer=quiet(), split="train")  # type: ignore[arg-type]


def test_wrong_batches_have_one_clear_message() -> None:
    class Changed(Scores):
        def __init__(self, **changes: Any) -> None:
            super().__init__()
            self.changes = changes

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), **self.changes}

    with pytest.raises(LightningMMError, match="11 samples have only 1 distinct values of 'index'"):
        sweep(VoteTask(NAMES), loader(Changed(index=0)), trainer=quiet())
    with pytest.raises(LightningMMError, match="no input 'rgb'"):
        sweep(VoteTask(NAMES), loader(Changed(inputs={"depth": torch.zeros(3)})), trainer=quiet())
    with pytest.raises(LightningMMError, match="expected `observed` Bool"):
        sweep(VoteTask(NAMES), loader(Changed(observed=torch.ones(2).bool())), trainer=quiet())
    nothing = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(LightningMMError, match="no sample observed"):
        sweep(VoteTask(NAMES), loader(Changed(observed=nothing)), trainer=quiet())


@pytest.mark.wrong_types
def test_batches_that_are_no_dicts() -> None:
    with pytest.raises(LightningMMError, match="expects batches"):
        sweep(VoteTask(NAMES), loader(torch.utils.data.TensorDataset(torch.zeros(4, 2))), trainer=quiet())


@pytest.mark.slow
def test_of_too_many_combinations_a_fixed_draw_is_swept_and_said() -> None:
    names = [f"m{place}" for place in range(20)]
    batch = {
        "inputs": {name: torch.randn(2, 3) for name in names},
        "observed": torch.ones(2, 20, dtype=torch.bool),
        "target": torch.tensor([0, 1]),
        "index": torch.arange(2),
    }
    data = torch.utils.data.DataLoader([batch], batch_size=None)
    with pytest.warns(UserWarning, match=r"20 modalities have 1,048,575 combinations; the sweep runs 1,023 of them"):
        result = sweep(VoteTask(names), data, trainer=quiet(), bootstrap=0)
    assert result.combinations == list(Modalities(names).sampled(1023))
    assert result.config["combinations_drawn"] == {"number": 1023, "of": 1048575, "seed": 0}
    assert result.summary("zero_fill")["worst_combination"] in result.combinations
    chosen = sweep(VoteTask(names), data, trainer=quiet(), bootstrap=0, combinations=["m0", "m3+m19"])
    assert chosen.combinations == ["m0", "m3+m19"]
    assert "combinations_drawn" not in chosen.config
