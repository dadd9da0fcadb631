"""The file of features: what is written is read, and what is damaged is refused by one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import EncoderFeatures, FeatureMean, read_features, save_features, save_mean_inputs
from lightning_mm.tree import leaves_of


def features() -> EncoderFeatures:
    generator = torch.Generator().manual_seed(0)
    nested = [torch.randn(2, 3, 3, generator=generator), {"deep": (torch.ones(2), torch.zeros(0, 3))}]
    return EncoderFeatures({"a": "net.a", "b": "net.b"}, {"a": nested, "b": torch.ones(4)}, {}, {"a": [(1, 9, 9)]})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "features.safetensors"
    save_features(features(), path)
    found, expected = read_features(path), features()
    assert found.encoders == expected.encoders
    assert found.shapes == expected.shapes
    assert [key for key, _ in leaves_of(found.means)] == [key for key, _ in leaves_of(expected.means)]
    for (_, one), (_, other) in zip(leaves_of(found.means), leaves_of(expected.means)):
        assert torch.equal(one, other)
    assert isinstance(found.means["a"][1]["deep"], tuple)
    mean = FeatureMean(str(path)).mean("a")
    assert mean[0].shape == (1, 2, 3, 3)
    assert not FeatureMean(str(path)).state_dict(), "a checkpoint does not depend on the fill"


def test_tables_are_read(tmp_path: Path) -> None:
    tables = {"a": torch.randn(5, 2), "b": torch.randn(5, 3)}
    means = {name: table.mean(0) for name, table in tables.items()}
    save_features(EncoderFeatures({"a": "a", "b": "b"}, means, tables), tmp_path / "f")
    assert all(torch.equal(rows, tables[name]) for name, rows in read_features(tmp_path / "f").vectors.items())


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with pytest.raises(DataNotFoundError, match=r"no features at .*; write them with `lightning-mm features`"):
        FeatureMean(str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(LightningMMError, match="are damaged or in another format"):
        FeatureMean(str(path))
    save_mean_inputs({"a": torch.ones(3)}, path)
    with pytest.raises(LightningMMError, match=r"holds no features \(format 'lightning_mm mean inputs 1'\)"):
        FeatureMean(str(path))
    about = {"format": "lightning_mm features 1", "encoders": '{"a": "a"}', "forms": '{"a": null}', "shapes": "{}"}
    good = {"mean/a/0": torch.ones(2)}
    for tensors, changed, text in (
        ({"mean/a/0": torch.tensor([1.0, float("nan")])}, {}, r"'mean/a/0': expected finite float32"),
        ({"mean/a/0": torch.ones(2).half()}, {}, r"expected finite float32, got torch.float16"),
        ({**good, "mean/a/1": torch.ones(2)}, {}, "1 tensors too many"),
        (good, {"forms": '{"a": {"list": [null, null]}}'}, "a tensor is missing"),
        (good, {"forms": '{"a": {"set": [null]}}'}, "KeyError"),
        (good, {"encoders": '{"a": 3}'}, "the name of an encoder is no text"),
        (good, {"encoders": "[1]"}, "are damaged"),
        (good, {"shapes": "{"}, "JSONDecodeError"),
        ({**good, "features/a": torch.ones(2)}, {}, r"expected one table \[N, D\] of each modality"),
    ):
        save_file(tensors, path, metadata={**about, **changed})
        with pytest.raises(LightningMMError, match=text) as caught:
            FeatureMean(str(path))
        assert "write it again with `lightning-mm features`" in str(caught.value)
    save_file(good, path, metadata=about)
    assert set(load_file(path)) == {"mean/a/0"}
    assert read_features(path).means["a"].tolist() == [1, 1]
