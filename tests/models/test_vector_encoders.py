"""Encoders to one vector per sample: any size of input, no trace of padding, mistakes answered in numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models import ImageEncoder, SequenceEncoder, SpectrogramEncoder, VectorEncoder
from tests.support.adapter_networks import trained_statistics
from tests.support.model_checks import check_travels

ENCODERS: list[tuple[Any, dict[str, Any], tuple[int, ...]]] = [
    (ImageEncoder, {"in_channels": 2, "width": 4}, (2, 28, 28)),
    (ImageEncoder, {"in_channels": 2, "width": 4, "depth": 1}, (2, 1, 5)),
    (SpectrogramEncoder, {"bands": 13, "width": 4}, (1, 13, 48)),
    (SpectrogramEncoder, {"bands": 1, "width": 4, "depth": 4}, (1, 1, 3)),
    (SequenceEncoder, {"in_channels": 3, "width": 4}, (11, 3)),
    (SequenceEncoder, {"in_channels": 3, "width": 4, "depth": 1, "kernel_size": 1}, (1, 3)),
    (VectorEncoder, {"in_channels": 5, "width": 4, "dropout": 0.5}, (5,)),
]


def build(kind: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    encoder = kind(**{"out_channels": 6, **settings})
    trained_statistics(encoder)
    return encoder.eval()


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "settings", "shape"), ENCODERS)
def test_one_vector_per_sample_and_every_parameter_has_a_use(
    kind: Any, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    encoder = build(kind, **settings)
    batch = numbers(3, *shape)
    vectors = encoder(batch)
    assert vectors.shape == (3, encoder.out_channels) == (3, 6)
    assert encoder.in_channels == settings.get("in_channels", 1)
    for row in range(3):
        torch.testing.assert_close(encoder(batch[row : row + 1]), vectors[row : row + 1], rtol=1e-5, atol=1e-6)
    vectors.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    check_travels(encoder, batch)


def test_a_spectrogram_encoder_knows_the_band_and_an_image_encoder_the_mean() -> None:
    """A tone far from the borders looks alike to a mean over both axes, wherever it is."""
    low, high = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    low[:, :, 24], high[:, :, 40] = 100.0, 100.0
    image = build(ImageEncoder, in_channels=1, width=4)
    torch.testing.assert_close(image(low), image(high))
    spectrogram = build(SpectrogramEncoder, bands=64, width=4)
    assert not torch.allclose(spectrogram(low), spectrogram(high), atol=1e-2)
    earlier, later = (torch.zeros(1, 1, 64, 64) for _ in range(2))
    earlier[..., 24], later[..., 40] = 100.0, 100.0
    torch.testing.assert_close(spectrogram(earlier), spectrogram(later))


@pytest.mark.parametrize("kernel_size", [1, 5])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
def test_padding_leaves_no_trace(kernel_size: int, depth: int, padding: float) -> None:
    encoder = build(SequenceEncoder, in_channels=3, width=8, depth=depth, kernel_size=kernel_size)
    for length in range(1, 14):
        sequence = numbers(1, length, 3, seed=length)
        alone = encoder(sequence)
        assert torch.equal(encoder({"values": sequence, "length": torch.tensor([length])}), alone)
        for extra in (1, 2, 9):
            values = torch.cat([sequence, torch.full((1, extra, 3), padding)], dim=1)
            padded = encoder({"values": values, "length": torch.tensor([length])})
            torch.testing.assert_close(padded, alone, rtol=1e-6, atol=1e-6)


def test_padding_reaches_neither_statistics_nor_gradients_in_training() -> None:
    results = []
    for padding in (0.0, 1e6, float("nan")):
        encoder = build(SequenceEncoder, in_channels=3, width=8).train()
        values = numbers(2, 9, 3)
        values[1, 4:] = padding
        encoder({"values": values, "length": torch.tensor([9, 4])}).square().sum().backward()
        found = [*(p.grad for p in encoder.parameters()), *encoder.buffers()]
        assert all(tensor.isfinite().all() for tensor in found)
        results.append(found)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_mean_over_valid_steps_against_a_loop() -> None:
    """Without stages that mix steps, the vector is the mean of what single steps give."""
    encoder = build(SequenceEncoder, in_channels=3, depth=1, kernel_size=1)
    values, lengths = numbers(3, 8, 3), [8, 5, 1]
    vectors = encoder({"values": values, "length": torch.tensor(lengths)})
    for row, length in enumerate(lengths):
        steps = [encoder(values[row : row + 1, step : step + 1]) for step in range(0, length, 2)]
        torch.testing.assert_close(vectors[row : row + 1], torch.stack(steps).mean(0))


def test_a_sequence_without_steps_is_one_step_of_zeros() -> None:
    encoder = build(SequenceEncoder, in_channels=3)
    empty = encoder({"values": numbers(1, 6, 3), "length": torch.tensor([0])})
    torch.testing.assert_close(empty, encoder(torch.zeros(1, 1, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "value", "message"),
    [
        (ImageEncoder(1), torch.zeros(2, 3, 8, 8), r"\[batch, 1, height, width\] \(1 channels\), got \(2, 3, 8, 8\)"),
        (ImageEncoder(1), torch.zeros(2, 8, 8), r"expected \[batch, 1, height, width\] .* got \(2, 8, 8\)"),
        (SpectrogramEncoder(8), torch.zeros(2, 1, 9, 8), r"expected \[batch, 1, 8, time\] .* got \(2, 1, 9, 8\)"),
        (VectorEncoder(4), torch.zeros(2, 3), r"expected \[batch, 4\] \(4 channels\), got \(2, 3\)"),
        (SequenceEncoder(3), torch.zeros(2, 5, 4), r"\[batch, time, 3\] .* 3 channels, got \(2, 5, 4\)"),
        (SequenceEncoder(3), torch.zeros(2, 4), r"3 channels, got \(2, 4\)"),
        (SequenceEncoder(3), torch.zeros(2, 0, 3), r"at least one step .* got \(2, 0, 3\)"),
        (SequenceEncoder(3), {"values": torch.zeros(2, 5, 3)}, r"\"length\": \[batch\]}, got a dict of \['values'\]"),
        (SequenceEncoder(3), {"values": torch.zeros(2, 5, 3), "length": torch.ones(2)}, "as integers, got torch.float"),
        (SequenceEncoder(3), {"values": torch.zeros(2, 5, 3), "length": 5}, "each of 2 sequences as integers, got int"),
        (
            SequenceEncoder(3),
            {"values": torch.zeros(2, 5, 3), "length": torch.tensor([True, False])},
            r"each of 2 sequences as integers, got torch\.bool \(2,\)",
        ),
    ],
)
def test_wrong_inputs_are_told(encoder: nn.Module, value: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        encoder(value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize(("kind", "settings", "shape"), ENCODERS)
def test_numbers_that_are_not_of_floating_point_are_told(
    kind: Any, settings: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Also the steps of sequences with lengths, whose mask alone would make floats of them."""
    encoder, value = build(kind, **settings), torch.zeros(3, *shape, dtype=dtype)
    forms: list[Any] = [value]
    if kind is SequenceEncoder:
        forms.append({"values": value, "length": torch.ones(3, dtype=torch.int64)})
    for form in forms:
        with pytest.raises(
            LightningMMError, match=rf"expected floating point .*, got {dtype}; convert .* `\.float\(\)`"
        ):
            encoder(form)


def test_lengths_are_cut_to_the_steps_that_are_there() -> None:
    encoder, values = build(SequenceEncoder, in_channels=3), numbers(3, 6, 3)
    cut = encoder({"values": values, "length": torch.tensor([0, 6, 4])})
    assert torch.equal(encoder({"values": values, "length": torch.tensor([-2, 99, 4])}), cut)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_is_a_probability(dropout: float) -> None:
    with pytest.raises(LightningMMError, match=rf"dropout must be at least 0 and below 1, got {dropout}"):
        VectorEncoder(3, dropout=dropout)


def test_wrong_settings_are_told() -> None:
    with pytest.raises(LightningMMError, match=r"kernel_size must be odd, .* got 4"):
        SequenceEncoder(3, kernel_size=4)
    for kind in (ImageEncoder, SpectrogramEncoder, SequenceEncoder, VectorEncoder):
        with pytest.raises(LightningMMError, match="depth must be a whole number of at least 1, got 0"):
            kind(3, depth=0)
        with pytest.raises(LightningMMError, match="must be a whole number of at least 1, got 0"):
            kind(0)
