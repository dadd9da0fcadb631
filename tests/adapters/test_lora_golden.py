"""LoRA against the peft library: three adapters on linear and convolution layers, alone, mixed in one batch, merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_mm.adapters import LoRA, OneHot, adapt


class Reads(nn.Module):
    """The network of the reference numbers; three modalities only name its three adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(6, 8, 1), nn.Flatten(),
            nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 5),
        )  # fmt: skip

    def forward(self, img: Tensor, thermal: Tensor, both: Tensor) -> Tensor:
        return self.net(img)


def test_agrees_with_peft(golden_root: Path) -> None:
    notes = json.loads((golden_root / "f_peft_lora.json").read_text())
    with np.load(golden_root / "f_peft_lora.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    network, x = Reads(), arrays["x"]
    network.net.load_state_dict({key[6:]: value for key, value in arrays.items() if key.startswith("base__")})
    adapters = notes["constructor"]["adapters"]
    made = notes["constructor"]
    kind, basis = LoRA(made["r"], alpha=made["lora_alpha"]), OneHot(combinations=adapters)
    adapted = adapt(network, adapters, kind, basis=basis, fill=None, example=((x, x, x), {}))
    assert list(adapted.adapter.basis.names) == adapters
    with torch.no_grad():
        for key, bank in adapted.adapter.banks.items():
            for row, adapter in enumerate(adapters):
                layer = key.removeprefix("net/")
                bank.down[row] = arrays[f"lora__{layer}.lora_A.{adapter}.weight"]
                bank.up[row] = arrays[f"lora__{layer}.lora_B.{adapter}.weight"].flatten(1).T
    names = adapted.adapter.modalities

    def outputs(per_sample: list[str]) -> Tensor:
        masks = torch.stack([names.mask(names.full if name == "__base__" else name) for name in per_sample])
        return adapted(x, x, x, available=masks)

    expected = {"base": ["__base__"] * 8, "mixed": notes["adapter_names_per_sample"]}
    for name, per_sample in {**expected, **{f"all_{name}": [name] * 8 for name in adapters}}.items():
        torch.testing.assert_close(outputs(per_sample), arrays[f"out__{name}"], rtol=1e-4, atol=1e-5)
    merged = adapted.fold("both").network.get_submodule("net").state_dict()
    for key, value in merged.items():
        torch.testing.assert_close(value, arrays[f"merged_both__{key}"], rtol=1e-4, atol=1e-6)
