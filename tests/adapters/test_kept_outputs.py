"""Encoder outputs that are kept from one epoch to the next, see adapters/kept."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, KeepOutputs, KeptEncoders, Kind, PredictedFeatures, Together
from lightning_mm.adapters.kept.keys import sample_keys
from lightning_mm.adapters.kept.rows import OVERHEAD
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Learned, Mean
from tests.support.exact_encoders import NAMES, WIDTH, Exact, adapted, samples

EPOCHS, BATCH = 5, 6


def keep(network: Adapted, **settings: Any) -> KeptEncoders:
    samples_of_all = settings.pop("samples", None)
    return KeptEncoders(network.adapter, network.base, KeepOutputs(**settings), samples_of_all)


def train(network: Adapted, kept: KeptEncoders | None, notes: list[str] | None = None, size: int = 24) -> Tensor:
    """Losses of training steps and validations, with other masks and another order in each epoch."""
    inputs, parameters = samples(size), list(network.adapter.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    losses, told = [], []
    with kept or nullcontext():
        for epoch in range(EPOCHS):
            generator = torch.Generator().manual_seed(epoch)
            masks = NAMES.masks()[torch.randint(7, (size,), generator=generator)]
            for rows in torch.randperm(size, generator=generator).split(BATCH):
                outputs = network(**{name: one[rows] for name, one in inputs.items()}, available=masks[rows])
                loss = outputs.square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            with torch.no_grad():
                every = NAMES.masks()[torch.arange(size) % 7]
                losses.append(network(**samples(size, seed=50), available=every).mean())
            told += kept.end_epoch() if kept is not None else []
    if notes is None:
        assert not told
    else:
        notes += told
    return torch.stack(losses)


@pytest.mark.parametrize("settings", [{}, {"grouped": True}, {"fill": Mean({"a": 0.5, "b": -0.25})}], ids=str)
@pytest.mark.parametrize("kind", [SSF(), PredictedFeatures(2), Together([SSF(), PredictedFeatures(2)])])
def test_training_is_the_same_to_the_bit(kind: Kind, settings: dict[str, Any], tmp_path: Path) -> None:
    if isinstance(kind, PredictedFeatures):
        settings = {**settings, "exclude": []}
    if isinstance(kind, Together):
        settings = {**settings, "exclude": ["encoders.*.layer"]}
    plain, kept = adapted(kind, **settings), adapted(kind, **settings)
    expected, found = train(plain, None), train(kept, keep(kept))
    assert torch.equal(expected, found)
    before, after = plain.adapter.state_dict(), kept.adapter.state_dict()
    assert any(value.abs().sum() > 0 for value in after.values())
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    files = [adapted(kind, **settings) for _ in range(2)]
    for network in files:  # the second reads what the first wrote
        found = train(network, keep(network, where=str(tmp_path)))
        assert torch.equal(expected, found)


def test_an_encoder_runs_once_for_each_sample_and_once_for_the_fill() -> None:
    network = adapted()
    with keep(network) as kept:
        for epoch in range(3):
            inputs, full = samples(), torch.ones(24, 3, dtype=torch.bool)
            mask = full.clone()
            mask[::2, 0] = False
            for available in (full, mask):
                network(**inputs, available=available)
            assert kept.end_epoch() == []
            runs = network.base.runs()
            if epoch == 0:  # the first known samples are encoded again, to compare
                assert sum(runs["b"]) == 48
                assert sum(runs["a"]) == 24 + 12 + 1
            else:
                assert not any(sum(sizes) for sizes in runs.values())
        distinct = {name: len(one.unique(dim=0)) for name, one in inputs.items()}
        assert kept.samples_kept <= sum(distinct.values()) + 1
        new = {name: torch.cat([one, torch.full((2, 3), 9.0)]) for name, one in inputs.items()}
        network(**new, available=torch.ones(26, 3, dtype=torch.bool))
        assert network.base.runs() == {name: [1] for name in NAMES}  # two equal samples are one
    network(**inputs, available=full)
    assert network.base.runs() == {name: [24] for name in NAMES}  # restored
    assert "forward" not in vars(network.base.encoders["a"])


def test_absent_inputs_are_not_read() -> None:
    network = adapted()
    mask = NAMES.masks()[torch.arange(24) % 7]
    before = network(**samples(), available=mask)
    with keep(network) as kept:
        for value in (0.0, float("nan"), 1e9, float("nan")):
            inputs = {
                name: torch.where(mask[:, [column]], one, torch.tensor(value))
                for column, (name, one) in enumerate(samples().items())
            }
            assert torch.equal(network(**inputs, available=mask), before)
            assert not kept.end_epoch()


def test_what_is_kept_does_not_change_with_what_the_network_does_to_it() -> None:
    network, inputs, full = adapted(), samples(), torch.ones(24, 3, dtype=torch.bool)
    with keep(network):
        outputs = [network(**inputs, available=full) for _ in range(4)]
    assert all(torch.equal(outputs[0], one) for one in outputs[1:])


class Sequences(Exact):
    """Encoders return as many steps as the longest sample of a batch has, in a dict."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.sizes = nn.Linear(1, WIDTH), []

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            self.sizes.append(len(x))
            length = int((x != 0).sum(1).amax().clamp(min=1))
            return {"steps": self.layer(x[:, :length, None]), "mask": x[:, :length] != 0}

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Sequences.Encoder() for name in NAMES})

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        total: Any = 0
        for name, x in (("a", a), ("b", b), ("c", c)):
            out = self.encoders[name](x)
            total = total + (out["steps"] * out["mask"].unsqueeze(2)).sum(1)
        return self.head(self.fusion(total).tanh())


def test_outputs_as_long_as_the_longest_sample_of_a_batch() -> None:
    network = adapted(network=Sequences(), encoders={name: f"encoders.{name}" for name in NAMES})
    inputs = {name: torch.rand(6, 3) + 0.1 for name in NAMES}
    inputs["a"][:3, 1:] = 0
    full = torch.ones(6, 3, dtype=torch.bool)
    rows = [torch.tensor(one) for one in ([0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4, 5], [2, 3], [0, 5], [0, 1], [1, 2])]
    batches = [({name: one[part] for name, one in inputs.items()}, full[part]) for part in rows]
    expected = [network(**batch, available=mask) for batch, mask in batches]
    with keep(network):
        for _ in range(2):
            for (batch, mask), outputs in zip(batches, expected):
                torch.testing.assert_close(network(**batch, available=mask), outputs)


@pytest.mark.parametrize("gib", [24 * 3 * 300 / 2**30, 1e-9])
def test_what_does_not_fit_is_encoded_again(gib: float) -> None:
    plain, network = adapted(), adapted()
    expected = train(plain, None)
    notes: list[str] = []
    kept = keep(network, gib=gib, samples=48)
    assert torch.equal(train(network, kept, notes), expected)
    (note,) = notes  # said once, after five epochs
    assert kept.space.used <= kept.space.limit
    needed = 48 * 3 * (WIDTH * 4 + OVERHEAD) / 2**30
    assert f"about {needed:.2g} GiB would hold those of all 48 samples" in note
    assert f"{gib:g} GiB are full" in note


def test_files_of_other_weights_are_not_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    where = {"where": str(tmp_path)}
    first = adapted()
    train(first, keep(first, **where))
    with keep(adapted(), **where) as kept:
        assert all(one.rows.places for one in kept.forwards)
    network = Exact()
    network.encoders["a"].layer.weight.data += 0.25  # type: ignore[union-attr, operator]
    with keep(adapted(network=network), **where) as kept:
        assert [bool(one.rows.places) for one in kept.forwards] == [False, True, True]
    (folder,) = tmp_path.glob("encoders.b-*")
    part = next(folder.iterdir())
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(LightningMMError, match=rf"kept outputs in .*{part.name} are damaged .*; remove this file"):
        keep(adapted(), **where)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    networks, full = [adapted(), adapted()], torch.ones(12, 3, dtype=torch.bool)
    halves = [{name: one[rows] for name, one in samples().items()} for rows in (slice(12), slice(12, 24))]
    kept = [keep(one, where=str(tmp_path)) for one in networks]
    for network, half in zip(networks, halves):
        network(**half, available=full)
    for one in [*kept, kept[0]]:
        assert not one.end_epoch()
        [two.asked.clear() for two in one.forwards]
    for network, half in zip(networks, reversed(halves)):
        for _ in range(2):  # the first compares
            network.base.runs()
            network(**half, available=full)
        assert not any(sum(sizes) for sizes in network.base.runs().values())


def test_inputs_that_never_come_again_are_not_kept() -> None:
    network, full = adapted(), torch.ones(24, 3, dtype=torch.bool)
    with keep(network) as kept:
        notes = []
        for _ in range(4):
            network(**{name: torch.randn(24, 3) for name in NAMES}, available=full)
            notes.append(kept.end_epoch())
        assert [len(one) for one in notes] == [0, 0, 3, 0]
        assert "encoder 'encoders.a' got no input twice in 3 epochs" in notes[2][0]
        assert not any(one.rows.places for one in kept.forwards)


class Reading(Exact):
    """An encoder adds what the network has set on it."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        self.encoders["a"].layer.bias.data.fill_(float(self.calls > 20))
        return super().forward(a, b, c)


def test_an_encoder_that_reads_something_else_is_noticed() -> None:
    network, full = adapted(network=Reading()), torch.ones(24, 3, dtype=torch.bool)
    network.base.calls = 20 - 1
    with keep(network):
        network(**samples(), available=full)
        with pytest.raises(LightningMMError, match=r"'encoders\.a' returned another output for the same input"):
            network(**samples(), available=full)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"exclude": ["head*"]},
            r"every encoder holds adapted layers, such as 'encoders.a.layer' in 'encoders.a'.*excl",
        ),
        ({"encoders": {}}, "Exact has no module that encodes one modality and nothing else; name them in `encoders`"),
    ],
)
def test_what_cannot_be_kept_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        keep(adapted(**settings))


def test_encoders_without_adapted_layers_are_kept_next_to_others() -> None:
    network = adapted(exclude=["encoders.a*", "encoders.c*"])
    plain = adapted(exclude=["encoders.a*", "encoders.c*"])
    kept = keep(network)
    assert kept.summary() == (
        "keep_encoder_outputs: outputs of encoders.a, encoders.c in memory, at most 2 GiB; encoders.b runs in every "
        "step, as encoders.b.layer is adapted"
    )
    assert torch.equal(train(network, kept), train(plain, None))


def test_learned_fills_and_layers_are_refused_when_they_are_met() -> None:
    network = adapted(fill=Learned({"a": 3}))
    mask = NAMES.mask("b+c").expand(24, -1)
    with (
        keep(network),
        pytest.raises(LightningMMError, match=r"'encoders\.a' cannot be kept, since its input depe"),
    ):
        network(**samples(), available=mask)
    network = adapted()
    network.base.encoders["a"].layer.weight.requires_grad_(True)
    with (
        keep(network),
        pytest.raises(LightningMMError, match=r"'encoders\.a' cannot be kept, since a part of it is"),
    ):
        network(**samples(), available=torch.ones(24, 3, dtype=torch.bool))


def test_encoders_that_someone_listens_to_run() -> None:
    network, full, heard = adapted(), torch.ones(24, 3, dtype=torch.bool), []
    with keep(network):
        for _ in range(3):
            network(**samples(), available=full)
        network.base.runs()
        handle = network.base.encoders["a"].layer.register_forward_hook(lambda *_: heard.append(1))
        network(**samples(), available=full)
        assert network.base.runs() == {"a": [24], "b": [], "c": []}
        assert heard == [1]
    with pytest.raises(LightningMMError, match=r"layer encoders\.a\.layer has a hook"):
        keep(network)
    handle.remove()
    network.base.compile(backend="eager")  # nothing is compiled before a call
    with pytest.raises(LightningMMError, match="compiled code cannot look outputs up"):
        keep(network)


def test_copies_keep_nothing() -> None:
    network, full = adapted(), torch.ones(24, 3, dtype=torch.bool)
    with keep(network):
        for _ in range(3):
            expected = network(**samples(), available=full)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            other.base.runs()
            for _ in range(3):
                assert torch.equal(other(**samples(), available=full), expected)
            assert other.base.runs() == {name: [24] * 3 for name in NAMES}


def test_keys_tell_inputs_apart() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, -2.0]])
    one, two, three = sample_keys(((x,), {}))  # type: ignore[misc]
    assert one == two != three
    for other in (((x.double(),), {}), ((), {"x": x}), ((x, 3), {}), ((x[:, :1],), {}), (({"x": x},), {})):
        assert sample_keys(other)[0] != one  # type: ignore[index]
    with torch.no_grad():
        assert sample_keys(((x,), {}))[0] != one  # type: ignore[index]
    with torch.autocast("cpu", torch.bfloat16):
        assert sample_keys(((x,), {}))[0] != one  # type: ignore[index]
    assert sample_keys(((x, torch.ones(2)), {})) is None
    assert sample_keys(((x, object()), {})) is None
    assert sample_keys(((torch.ones(()),), {})) is None


def test_settings() -> None:
    with pytest.raises(LightningMMError, match="gib: expected more than 0, got 0"):
        KeepOutputs(gib=0)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(("gib", one, "more than 0") for one in ("2", None, True)),
        *(("where", one, "'memory'") for one in (None, 3, "")),
    ],
)
def test_settings_of_a_config_that_are_of_another_type(name: str, value: Any, text: str) -> None:
    made = KeepOutputs()
    object.__setattr__(made, name, value)  # the type checker of the tests does not let it in
    with pytest.raises(LightningMMError, match=f"{name}: expected {text}.*, got {value!r}"):
        made.__post_init__()


def test_a_batch_without_samples() -> None:
    network, full = adapted(), torch.ones(24, 3, dtype=torch.bool)
    with keep(network):
        for size in (24, 24, 0, 24):
            rows = {name: one[:size] for name, one in samples().items()}
            assert network(**rows, available=full[:size]).shape == (size, 2)


def test_an_encoder_that_is_given_up_leaves_its_memory_to_the_others() -> None:
    network, full = adapted(), torch.ones(24, 3, dtype=torch.bool)
    with keep(network) as kept:
        for epoch in range(4):
            inputs = {**samples(), "a": torch.randn(24, 3, generator=torch.Generator().manual_seed(epoch))}
            network(**inputs, available=full)
            kept.end_epoch()
        assert kept.space.used == sum(24 * one.rows.bytes_per_sample for one in kept.forwards if one.name[-1] != "a")
