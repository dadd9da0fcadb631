"""A stream replayed through an adapted network equals the fixed combinations frame by frame; nothing is rebuilt.

The same through an exported ``Runtime``: tests/export/test_trace.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Additive, adapt
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import AvailabilityTrace, replay
from tests.support.adapter_networks import randomise

NAMES = ["camera", "radar", "audio"]


class Sensors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(4, 8) for name in NAMES})
        self.norm, self.head = nn.BatchNorm1d(24), nn.Linear(24, 3)

    def forward(self, camera: Tensor, radar: Tensor, audio: Tensor) -> Tensor:
        inputs = {"camera": camera, "radar": radar, "audio": audio}
        features = torch.cat([self.encoders[name](value) for name, value in inputs.items()], dim=1)
        return self.head(torch.relu(self.norm(features)))


def stream(frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(frames, 4, generator=generator) for name in NAMES}


def state(network: nn.Module) -> list[Any]:
    """Modules, their hooks and all tensors, by identity and value."""
    found: list[Any] = []
    for name, module in network.named_modules():
        hooks = [module._forward_hooks, module._forward_pre_hooks]
        found.append((name, id(module), [[id(hook) for hook in one.values()] for one in hooks], sorted(vars(module))))
    return [*found, {key: value.tolist() for key, value in network.state_dict().items()}]


def test_each_frame_is_that_of_its_fixed_combination() -> None:
    torch.manual_seed(0)
    values, trace = stream(80), AvailabilityTrace.markov(NAMES, 80, mean_on=6, mean_off=4, seed=1)
    adapted = adapt(Sensors(), NAMES, SSF(), basis=Additive(), example=((), stream(5)))
    randomise(adapted)
    adapted.eval()

    def network(inputs: dict[str, Any], available: Tensor) -> Tensor:
        out: Tensor = adapted(**inputs, available=available)
        return out

    frames = []
    for number, row in enumerate(trace.available.tolist()):
        frame = {name: values[name][number : number + 1] for name in NAMES}
        for there, name in zip(row, NAMES):
            if not there:  # three ways in which a sensor has nothing to say
                frame |= ({name: torch.full((1, 4), torch.nan)}, {name: None}, {})[number % 3]
                if number % 3 == 2:
                    del frame[name]
        frames.append(frame)

    with torch.no_grad():
        before = state(adapted)
        out = list(replay(network, frames, trace))
        assert state(adapted) == before, "a frame has changed hooks, modules or tensors"
        assert len(set(trace.combinations())) == 7
        for combination in dict.fromkeys(trace.combinations()):
            fixed = trace.modalities.mask(combination)
            mine = [number for number, name in enumerate(trace.combinations()) if name == combination]
            alone = {number: {name: values[name][number : number + 1] for name in NAMES} for number in mine}
            for number in mine:  # calls of this combination alone
                assert torch.equal(out[number], adapted(**alone[number], available=fixed[None]))
            batch = {name: values[name][mine] for name in NAMES}
            found = torch.cat([out[number] for number in mine])
            # a batch is another matrix product, which rounds differently
            torch.testing.assert_close(
                found, adapted(**batch, available=fixed.expand(len(mine), -1)), rtol=1e-5, atol=1e-5
            )
            torch.testing.assert_close(found, adapted.fold(combination)(**batch), rtol=1e-5, atol=1e-5)
        backwards = AvailabilityTrace(trace.available.flip(0), NAMES)
        again = list(replay(network, reversed(frames), backwards))
        assert all(map(torch.equal, reversed(again), out)), "what came before counts"
        with adapted.adapter.disabled():
            assert not all(map(torch.equal, replay(network, frames, trace), out))


def test_a_frame_without_anything_is_not_computed() -> None:
    calls: list[list[bool]] = []

    def network(inputs: dict[str, Any], available: Tensor) -> int:
        calls.append(available.tolist())
        return len(calls)

    trace = AvailabilityTrace(torch.tensor([[False, False], [True, False], [False, False]]), ["a", "b"])
    two = {"a": torch.ones(2, 3), "b": {"values": torch.ones(2, 3)}}
    assert list(replay(network, [two, two, {}], trace)) == [None, 1, None]
    assert calls == [[[True, False]] * 2]


def test_mistakes_are_explained() -> None:
    trace = AvailabilityTrace(torch.ones(2, 2, dtype=torch.bool), ["a", "b"])
    frame = {"a": torch.ones(1), "b": torch.ones(1)}

    def network(inputs: Any, available: Any) -> None:
        return None

    for frames, text in (
        ([frame], r"the stream ends after 1 frames, the trace has 2"),
        ([frame] * 3, "more frames than the trace, which ends after 2"),
        ([{"a": torch.ones(1)}], r"by the trace frame 0 has 'a\+b', but it holds no 'b'"),
        ([], "the stream ends after 0 frames"),
    ):
        with pytest.raises(LightningMMError, match=text):
            list(replay(network, frames, trace))


def test_a_frame_without_samples_has_a_mask_without_rows() -> None:
    trace = AvailabilityTrace(torch.ones(1, 2, dtype=torch.bool), ["a", "b"])
    frames = [{"a": torch.ones(0, 3), "b": torch.ones(0, 3)}]
    assert list(replay(lambda inputs, available: tuple(available.shape), frames, trace)) == [(0, 2)]
