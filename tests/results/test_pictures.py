"""Pictures of predictions: one file per combination, named after kind and combination."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.results import SweepResult, SweepRow
from lightning_mm.results.pictures import (
    Examples,
    find_pictures,
    merge_examples,
    read_examples,
    write_examples,
    write_pictures,
)
from lightning_mm.results.pictures.labels import confusion_picture, label_pairs, values_picture
from lightning_mm.results.pictures.samples import ABSENT, PALETTE, TILE, coloured, fit, segmentation_picture
from lightning_mm.results.pictures.write import MOST, drawn_combinations

NAMES = ["rgb", "depth"]
LABELS = np.array([0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 0, 2, 2, 1])


def classified(methods: tuple[str, ...] = ("zero_fill", "adapted"), names: list[str] | None = None) -> SweepResult:
    names = names or NAMES
    combinations = ModalityNames(names).combinations()
    rows = [SweepRow(m, c, c.count("+") + 1, "accuracy", 0.5, 6, 0) for m in methods for c in combinations]
    samples = {f"{m}/{c}/{kind}": v for m in methods for c in combinations
               for kind, v in (("prediction", PREDICTED), ("target", LABELS))}  # fmt: skip
    return SweepResult(rows, names, "accuracy", samples=samples)


def segmented(count: int = 2, size: int = 8) -> Examples:
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 3, (count, size, size)).astype(np.int16)
    return Examples(
        ["sky", "road", "car"],
        np.arange(count) * 5,
        {name: rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8) for name in NAMES},
        truth,
        {(m, c): np.abs(truth) for m in ("zero_fill", "adapted") for c in ModalityNames(NAMES).combinations()},
    )


def test_one_file_per_combination_named_after_both(tmp_path: Path) -> None:
    written = write_pictures(classified(), tmp_path)
    assert [one.path.name for one in written] == [
        "confusion_rgb.png", "confusion_depth.png", "confusion_rgb+depth.png",
    ]  # fmt: skip
    for one in written:
        with Image.open(one.path) as image:
            assert image.size[0] > 300
    assert find_pictures(tmp_path, NAMES) == written
    both = write_pictures(classified(), tmp_path, segmented())
    assert [one.kind for one in both] == ["segmentation"] * 3 + ["confusion"] * 3
    assert find_pictures(tmp_path, NAMES) == both
    fewer = replace(classified(), samples={})
    assert write_pictures(fewer, tmp_path) == find_pictures(tmp_path) == [], "those of an earlier sweep are gone"


def test_equal_results_make_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_pictures(classified(), tmp_path / name, segmented()) for name in ("a", "b"))
    assert [one.path.read_bytes() for one in first] == [one.path.read_bytes() for one in second]


def test_a_confusion_matrix_shows_shares_of_the_true_class() -> None:
    figure = confusion_picture(label_pairs(classified(), "rgb"), "rgb", ["sky", "road", "car"])
    assert [axis.get_title() for axis in figure.axes] == ["zero_fill, 6 predictions", "adapted, 6 predictions"]
    shares = np.asarray(figure.axes[0].images[0].get_array())
    expected = np.zeros((3, 3))
    for true, predicted in zip(LABELS, PREDICTED):
        expected[true, predicted] += 1 / (true == LABELS).sum()
    np.testing.assert_allclose(shares, expected)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["sky", "road", "car"]


def test_seeds_are_drawn_together() -> None:
    result = classified()
    result.samples = {f"seed{k}/{key}": values for k in (0, 1) for key, values in result.samples.items()}
    assert {method: len(pair[0]) for method, pair in label_pairs(result, "rgb").items()} == {
        "zero_fill": 12,
        "adapted": 12,
    }


def test_of_very_many_classes_there_is_no_matrix(tmp_path: Path) -> None:
    result = classified()
    result.samples = {key: values * 10**6 for key, values in result.samples.items()}
    assert write_pictures(result, tmp_path) == []


def test_numbers_are_drawn_against_the_truth() -> None:
    result = classified()
    result.samples = {
        key: values.astype(np.float32) + 0.25 * key.endswith("prediction") for key, values in result.samples.items()
    }
    pairs = label_pairs(result, "depth")
    figure = values_picture(pairs, "depth")
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], LABELS)
    np.testing.assert_allclose(points[:, 1], PREDICTED + 0.25)


def test_a_segmentation_shows_inputs_truth_and_methods() -> None:
    examples = segmented()
    figure = segmentation_picture(examples, "rgb", NAMES)
    texts = [text.get_text() for text in figure.texts]
    assert texts[:9] == ["rgb", "rgb", "", "depth", "missing", "truth", "", "zero_fill", "without adapter"]
    assert texts[9:11] == ["adapted", "with adapter"]
    image = np.asarray(figure.images[0].get_array())
    tile = fit(examples.inputs["rgb"])[0]
    np.testing.assert_array_equal(image[:TILE, :TILE], tile)
    assert (image[:TILE, TILE + 6 : 2 * TILE + 6] == ABSENT).all(), "an absent modality is empty"
    np.testing.assert_array_equal(image[:TILE, 2 * (TILE + 6) : 3 * TILE + 12], fit(coloured(examples.truth))[0])


def test_labels_and_ignored_pixels_have_colours() -> None:
    labels = np.array([[[0, 1], [-1, len(PALETTE) + 1]]], np.int16)
    np.testing.assert_array_equal(coloured(labels)[0, 0], PALETTE[:2])
    np.testing.assert_array_equal(coloured(labels)[0, 1], [[255, 255, 255], PALETTE[1]])


def test_of_many_combinations_some_are_drawn() -> None:
    result = classified(("zero_fill",), [f"m{k}" for k in range(8)])
    drawn = drawn_combinations(result)
    assert len(drawn) == MOST
    assert {"m0", result.full_combination, "+".join(result.modalities[1:])} <= set(drawn)


def test_long_names_become_numbers(tmp_path: Path) -> None:
    names = [f"{letter * 80}" for letter in "abc"]
    written = write_pictures(classified(("zero_fill",), names), tmp_path)
    assert written[-1].path.name == "confusion_m1+m2+m3.png"
    assert find_pictures(tmp_path, names) == written


def test_examples_are_read_as_written(tmp_path: Path) -> None:
    examples = segmented()
    write_examples(examples, tmp_path)
    again = read_examples(tmp_path)
    assert again is not None
    assert list(again.class_names) == list(examples.class_names)
    np.testing.assert_array_equal(again.truth, examples.truth)
    assert again.predictions.keys() == examples.predictions.keys()
    np.testing.assert_array_equal(again.inputs["depth"], examples.inputs["depth"])
    assert read_examples(tmp_path / "nothing") is None


def test_damaged_examples(tmp_path: Path) -> None:
    write_examples(replace(segmented(), truth=np.zeros((1, 2, 2), np.int16)), tmp_path)
    with pytest.raises(LightningMMError, match=r"sweep_examples.npz cannot be read .* remove it"):
        read_examples(tmp_path)
    (tmp_path / "sweep_examples.npz").write_bytes(b"not an archive")
    with pytest.raises(LightningMMError, match=r"cannot be read \(BadZipFile"):
        read_examples(tmp_path)


def test_examples_of_the_same_samples_are_joined() -> None:
    whole = segmented()
    one = replace(whole, predictions={k: v for k, v in whole.predictions.items() if k[0] == "zero_fill"})
    two = replace(
        whole,
        inputs={"rgb": whole.inputs["rgb"]},
        predictions={k: v for k, v in whole.predictions.items() if k[0] == "adapted"},
    )
    other = replace(whole, index=whole.index + 1, predictions={("dedicated", "rgb"): whole.truth})
    joined = merge_examples([one, two, other])
    assert joined.methods == ["zero_fill", "adapted"]
    assert set(joined.inputs) == set(NAMES)
    assert merge_examples([]).methods == []


@pytest.mark.parametrize("name", ["$\\frac{$", "a$b$c", "多模态"])
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """Dollar signs are no formulas, and a name of many bytes becomes a number."""
    examples = replace(segmented(), class_names=[name, f"{name}1", f"{name}2"])
    names = [name * 28, "depth"]
    examples = replace(
        examples,
        inputs={names[0]: examples.inputs["rgb"]},
        predictions={("adapted", names[0]): examples.truth, (name, names[0]): examples.truth},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        written = write_pictures(classified((name, "adapted"), names), tmp_path, examples)
    assert [one.kind for one in written] == ["segmentation"] + ["confusion"] * 3
    assert find_pictures(tmp_path, names) == written
