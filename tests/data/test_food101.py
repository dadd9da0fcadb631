"""Food-101 on files generated in the true layout, whole and broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mm.data import Food101, ModalityDropoutDataModule
from lightning_mm.data.readers.photos import size_within
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import ExactShare
from lightning_mm.modalities import Modalities
from tests.support.fake import food101 as fake


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake.write(tmp_path / "food101")
    return tmp_path / "food101"


def food(root: Path, split: str = "train", **settings: Any) -> Food101:
    return Food101(split, root=str(root), **{"size": 64, "max_text_length": 6, **settings})


def test_squares_tokens_and_targets(root: Path) -> None:
    for split, count in fake.COUNTS.items():
        dataset = food(root, split)
        assert len(dataset) == count
        for index in range(count):
            sample = dataset[index]
            image, text = sample["inputs"]["image"], sample["inputs"]["text"]
            assert image.shape == (3, 64, 64)
            assert image.dtype == torch.float32
            assert sample["target"] == image.mean((1, 2)).argmax(), "the colour of the class is the brightest"
            assert image.min() == pytest.approx(40 / 127.5 - 1, abs=0.05)
            words = [fake.VOCAB[int(one)] for one in text["input_ids"]]
            title = ["[CLS]", "the", *fake.CLASSES[sample["target"]].split("_"), "recipe", "[SEP]"]
            assert words == (title if len(title) <= 6 else [*title[:5], "[SEP]"])[:6] + ["[PAD]"] * (6 - len(title))
            assert text["attention_mask"].tolist() == [int(word != "[PAD]") for word in words]
    assert food(root).class_names == fake.CLASSES
    assert [food(root)[0]["inputs"]["text"][key].dtype for key in ("input_ids", "attention_mask")] == [torch.int64] * 2


def test_long_texts_are_cut_and_short_ones_padded(root: Path) -> None:
    short, long = food(root, max_text_length=4), food(root, max_text_length=12)
    assert short[0]["inputs"]["text"]["input_ids"].tolist() == [
        2,
        fake.VOCAB.index("the"),
        fake.VOCAB.index("apple"),
        3,
    ]
    text = long[0]["inputs"]["text"]
    expected = [fake.VOCAB.index(word) for word in ("[CLS]", "the", "apple", "pie", "recipe", "[SEP]")]
    assert text["input_ids"].tolist() == expected + [0] * 6
    assert text["attention_mask"].tolist() == [1] * 6 + [0] * 6


def test_shape_kept_within_the_longer_side(root: Path) -> None:
    dataset = food(root, size=64, longer=96)
    for index, size in ((0, (96, 64)), (1, (32, 96))):  # height and width of 60 x 40 and 40 x 80 pixels on disk
        image = dataset[index]["inputs"]["image"]
        assert image["pixel_mask"].eq(1).all()
        assert image["pixel_values"].shape[1:] == image["pixel_mask"].shape == size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (384, 384)),
        ((500, 375), (512, 384)),
        ((375, 500), (384, 512)),
        ((1000, 500), (640, 320)),
        ((3000, 100), (640, 32)),
        ((20, 20), (384, 384)),
    ],
)
def test_sizes_are_those_of_vilt(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert size_within(size, 384, 640, 32) == expected


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_images_of_any_mode(root: Path, mode: str) -> None:
    name = food(root).files[0]
    gray = Image.fromarray(np.full((50, 50), 200, dtype=np.uint8))
    image = gray.convert(mode) if mode == "P" else gray.convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    fake.save(root, "train", name, image)
    pixels = food(root)[0]["inputs"]["image"]
    assert pixels.shape == (3, 64, 64)
    assert torch.allclose(pixels[0], pixels[2], atol=0.05)


def test_a_damaged_image_is_told_with_its_path(root: Path) -> None:
    dataset = food(root)
    path = fake.path_of(root, "train", dataset.files[1])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image at all"):
        path.write_bytes(content)
        with pytest.raises(LightningMMError, match=rf"{path.name} is damaged .*copy it again"):
            dataset[1]
    path.unlink()
    with pytest.raises(DataNotFoundError, match="is not there"):
        dataset[1]


def test_missing_images(root: Path) -> None:
    name = food(root, "val").files[2]
    fake.path_of(root, "val", name).unlink()
    with pytest.raises(DataNotFoundError, match=rf"1 of 6 samples of split 'val' have no image.*{name}.*images/train"):
        food(root, "val")
    dataset = food(root, "val", allow_missing=True)
    assert dataset[2]["inputs"]["image"] is None
    assert dataset[2]["inputs"]["text"]["input_ids"][0] == 2
    for longer in (None, 96):
        data = ModalityDropoutDataModule(
            lambda split, longer=longer: food(root, split, longer=longer, allow_missing=True),
            ["image", "text"],
            batch_size=6,
        )
        data.setup("validate")
        batch = next(iter(data.val_dataloader()))
        assert batch["observed"].sum(0).tolist() == [5, 6]
        assert batch["inputs"]["text"]["input_ids"].shape == (6, 6)
        if longer is None:
            assert batch["inputs"]["image"].shape == (6, 3, 64, 64)
        else:
            assert batch["inputs"]["image"]["pixel_values"].shape == (6, 3, 96, 96)
            assert batch["inputs"]["image"]["pixel_mask"][2].sum() == 0


def test_samples_without_a_text_are_left_out(root: Path) -> None:
    names = food(root).files
    texts = json.loads((root / "text.json").read_text())
    del texts[names[0]]
    (root / "text.json").write_text(json.dumps({**texts, names[1]: [], names[2]: " ", names[3]: [None, "Home"]}))
    dataset = food(root)
    assert dataset.files == names[3:]
    assert dataset[0]["inputs"]["text"]["input_ids"].tolist()[:3] == [2, fake.VOCAB.index("home"), 3]
    (root / "text.json").write_text("{}")
    with pytest.raises(DataNotFoundError, match="no file of split 'train' has a text"):
        food(root)


def test_lists_out_of_order_are_told(root: Path) -> None:
    classes, splits, texts = root / "class_idx.json", root / "split.json", root / "text.json"
    name = food(root).files[0]
    good = {path: path.read_text() for path in (classes, splits, texts)}
    for path, content, message in (
        (classes, '{"pho": 0, "apple_pie": 1}', "is of class 'red_velvet_cake', which .*class_idx.json does not have"),
        (classes, '{"pho": 0, "apple_pie": 2, "red_velvet_cake": 3}', "number its 3 classes from 0 without gaps"),
        (classes, '{"pho": 0, "apple_pie": null}', r"class_idx\.json must give each .*, got None for 'apple_pie'"),
        (classes, '{"pho": 0, "apple_pie": 1.5}', r"class_idx\.json must give each .*, got 1\.5 for 'apple_pie'"),
        (classes, '{"pho": 0, "apple_pie": "x"}', r"class_idx\.json must give each class a number \(.*'x'\)"),
        (splits, '{"train": "pho_1.jpg"}', r"split\.json must give split 'train' as a list of .* of type str"),
        (splits, '{"train": {"pho_1.jpg": 0}}', r"split\.json must give split 'train' .* of type dict"),
        (splits, '{"train": null}', r"split\.json must give split 'train' .* of type NoneType"),
        (splits, '{"train": ["pho_1.jpg", ["a"]]}', r"split\.json must give .* an entry of type list"),
        (texts, f'{{"{name}": 5}}', rf"text\.json must give {name} a text or a list of texts, .* of type int"),
        (splits, '{"test": []}', r"has no split 'train', only \['test'\]"),
        (splits, "[1]", "to hold a mapping, got a list"),
        (splits, "{", "split.json is damaged"),
    ):
        path.write_text(content)
        with pytest.raises(LightningMMError, match=message):
            food(root)
        path.write_text(good[path])
    splits.unlink()
    with pytest.raises(DataNotFoundError, match=r"food101 lacks split\.json; set LIGHTNING_MM_DATA"):
        food(root)


def test_vocabulary(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "words.txt"
    other.write_text("\n".join([*fake.VOCAB, "extra"]))
    assert food(root, vocab=str(other))[0]["inputs"]["text"]["input_ids"][0] == 2
    other.write_text("a\nb\n")
    with pytest.raises(LightningMMError, match=r"it lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        food(root, vocab=str(other))
    with pytest.raises(DataNotFoundError, match=r"no vocabulary at .*none\.txt; set vocab to the vocab.txt of BERT"):
        food(root, vocab=str(tmp_path / "none.txt"))
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(LightningMMError, match=r"Food101 needs .*: pip install 'lightning-mm\[transformers\]'"):
        food(root)


def test_arguments(root: Path) -> None:
    with pytest.raises(LightningMMError, match="split must be one of"):
        food(root, "dev")
    for settings in ({"size": 60}, {"size": 16}, {"longer": 32}, {"multiple": 0}):
        with pytest.raises(LightningMMError, match="size must be a multiple of"):
            food(root, **settings)
    with pytest.raises(LightningMMError, match="max_text_length must be a whole number of at least 2"):
        food(root, max_text_length=1)
    with pytest.raises(IndexError, match="outside of the 12 samples"):
        food(root)[12]


def test_it_travels_to_workers(root: Path) -> None:
    dataset = food(root)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3]["inputs"]["text"]["input_ids"], dataset[3]["inputs"]["text"]["input_ids"])
    assert torch.equal(copy[3]["inputs"]["image"], dataset[3]["inputs"]["image"])


def test_the_table_of_the_protocol_in_a_data_module(tmp_path: Path) -> None:
    fake.write(tmp_path, {"train": 40, "val": 6, "test": 6})
    data = ModalityDropoutDataModule(
        lambda split: food(tmp_path, split), ["image", "text"], train_policy=ExactShare(0.7), batch_size=8, seed=1
    )
    data.setup("fit")
    assert data.histogram("train") == {"image": 14, "text": 14, "image+text": 12}
    assert data.histogram("train", epoch=3) == data.histogram("train")
    batch = next(iter(data.train_dataloader()))
    drawn = ExactShare(0.7).draw(Modalities(["image", "text"]), batch["index"], epoch=0, seed=1)
    assert torch.equal(batch["available"], drawn)


def test_about() -> None:
    about = Food101.about
    assert about.name == "food101"
    assert sum(about.counts.values()) == 90_704
    for part in ("class_idx.json", "text.json", "split.json", "vocab.txt", "images/{train,test}/<class>"):
        assert part in about.tree
