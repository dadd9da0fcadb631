"""A task that keeps what its network outputs, and networks that make it hard to reuse outputs of modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.modalities import Modalities

NAMES = Modalities(["a", "b", "c"])
WIDTH = 4


class OutputTask(LightningModule):
    """Fills absent inputs and runs a network on ``{modality: [B, 4]}``; the statistics are the outputs."""

    primary_metric = "mean"

    def __init__(self, model: nn.Module, pass_available: bool = False, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.modalities, self.pass_available = model, NAMES, pass_available
        if adapter is not None:
            self.adapter = adapter

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Any:
        filled = fill_inputs(Zeros(), self.modalities, inputs, available)
        return self.model(**filled, **({"available": available} if self.pass_available else {}))

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"output": outputs.double().flatten(1)}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"mean": statistics["output"].mean().item()}


class Encoder(nn.Module):
    """Notes the number of samples of each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.layer(x).relu()


class Plain(nn.Module):
    """Three encoders, their sum, a head; subclasses change how it goes about it."""

    encoder: type[nn.Module] = Encoder

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({name: self.encoder() for name in NAMES})
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.head(self.fuse([encoder(x) for encoder, x in zip(self.encoders.values(), (a, b, c))]))

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        return features[0] + features[1].tanh() + features[2].sin()


class Four(Plain):
    """One more encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders["d"] = self.encoder()

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return self.head(self.fuse([encoder(x) for encoder, x in zip(self.encoders.values(), (a, b, c, d))]).sin())


class ChangedInPlace(Plain):
    """Changes the outputs of its encoders after they ran."""

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        return features[0].mul_(2).add_(features[1].tanh_()).add_(features[2])


class Twice(Plain):
    """Runs one encoder twice in a call, on different inputs."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        first, second = self.encoders["a"](a), self.encoders["a"](b)
        return self.head(self.fuse([first, second, self.encoders["c"](c)]))


class OneFromAnother(Plain):
    """An encoder sees the output of another one."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        first = self.encoders["a"](a)
        return self.head(self.fuse([first, self.encoders["b"](b + first), self.encoders["c"](c)]))


class TakesAvailable(Plain):
    """Passes what is available to the network, which scales the outputs of its encoders by it."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor, available: Tensor) -> Tensor:
        shares = available / available.sum(1, keepdim=True)
        features = [encoder(x) for encoder, x in zip(self.encoders.values(), (a, b, c))]
        return self.head(self.fuse([one * shares[:, i, None] for i, one in enumerate(features)]))


class SetFromOutside(Encoder):
    """Reads a number that the network sets on it before each call."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class OnTheObject(Plain):
    """The output of an encoder depends on the combination by an attribute."""

    encoder = SetFromOutside

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        for encoder in self.encoders.values():
            encoder.factor = float((a[0] != 0).any()) + 2 * float((b[0] != 0).any())
        return super().forward(a, b, c)


class SetByBatch(Plain):
    """The output of an encoder depends on another input of the batch by an attribute."""

    encoder = SetFromOutside

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        encoder: Any = self.encoders["b"]
        encoder.factor = 1 + float(a.mean())
        return super().forward(a, b, c)


class Leaves(Encoder):
    """Leaves a feature on itself, which the network reads later."""

    def forward(self, x: Tensor) -> Tensor:
        self.feature = super().forward(x)
        return self.feature.sin()


class ReadsAttributes(Plain):
    """Reads features that encoders left on themselves."""

    encoder = Leaves

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        return sum(features) + sum(encoder.feature for encoder in self.encoders.values())  # type: ignore[return-value]


class Noisy(Encoder):
    """Adds noise in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.randn_like(x)


class Random(Plain):
    encoder = Noisy


class Counting(Encoder):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1 + self.calls // 100)


class CountsCalls(Plain):
    encoder = Counting


class WithTable(Encoder):
    """Makes a table for the width of its input in its first call."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1]).to(x)
        return super().forward(x + self.table)


class MakesTables(Plain):
    encoder = WithTable


class OverInput(Encoder):
    """Changes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


class ChangesInputs(Plain):
    """Its encoders change copies of the inputs in place, which the network reads afterwards."""

    encoder = OverInput

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        copies = [a.clone(), b.clone(), c.clone()]
        features = [encoder(x) for encoder, x in zip(self.encoders.values(), copies)]
        return self.head(self.fuse([one + x for one, x in zip(features, copies)]))


class Clipping(Encoder):
    """Clips large values of its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp_(-1.2, 1.2))


class ClipsInputs(ChangesInputs):
    encoder = Clipping


def loader(samples: int = 10, batch_size: int = 4, gaps: bool = False, names: Modalities = NAMES) -> DataLoader[Any]:
    """Batches of random vectors; with ``gaps`` every third sample did not observe ``b``."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(samples, len(names), WIDTH, generator=generator)
    observed = torch.ones(samples, len(names), dtype=torch.bool)
    if gaps:
        observed[::3, 1] = False
    return DataLoader(
        [
            {
                "inputs": {name: values[i, column] for column, name in enumerate(names)},
                "observed": observed[i],
                "target": torch.tensor(0),
                "index": i,
            }
            for i in range(samples)
        ],  # type: ignore[arg-type]
        batch_size=batch_size,
    )
