"""SSF against its reference implementation, for every layout that has numbers there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_mm import Modalities
from lightning_mm.adapters import OneHot, SSFBank
from lightning_mm.adapters.call import AdapterCall, LayerCall
from lightning_mm.adapters.layers.layout import Layout, Site


def test_agrees_with_the_reference(golden_root: Path) -> None:
    notes = json.loads((golden_root / "e_ssf.json").read_text())
    with np.load(golden_root / "e_ssf.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    channels = notes["inputs"]["C"]
    basis = OneHot()
    basis.bind(Modalities(["a", "b"]))
    bank = SSFBank(2, channels)
    with torch.no_grad():
        assert bank.scale is not None
        assert bank.shift is not None
        bank.scale[0], bank.shift[0] = arrays["scale"] - 1, arrays["shift"]
        bank.scale[1] = bank.shift[1] = torch.nan  # the other combination's
    cases = [key[2:] for key in arrays if key.startswith("x_")]
    assert len(cases) >= 4
    for case in cases:
        x = arrays[f"x_{case}"]
        # the reference looks at the last axis first, so that a width of C counts as the channels
        axis = x.ndim - 1 if x.shape[-1] == channels else 1
        site = Site("layer", channels, (Layout(x.ndim, 0, axis),))
        only_a = torch.tensor([[True, False]]).expand(len(x), -1)
        with torch.no_grad():
            call = AdapterCall(basis, only_a, basis.route(only_a))
            found = bank.leave(LayerCall(call, site, nn.Identity()), x)
        torch.testing.assert_close(found, arrays[f"y_{case}"], rtol=notes["tolerance"]["rtol"], atol=1e-6)
