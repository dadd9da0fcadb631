"""AVDigits: a written digit (MNIST) and a spoken digit (Free Spoken Digit Dataset), paired by their label.

Shapes: N recordings, S samples of sound, F = 32 mel bands, T = 48 frames.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index, fraction
from lightning_mm.data.pages.av_digits import AV_DIGITS
from lightning_mm.data.readers.arrays import INTEGERS, NUMBERS, STRINGS, check_labels, read_npz
from lightning_mm.data.readers.damage import damaged, reading
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.errors import LightningMMError, check_choice, check_whole

Array = NDArray[Any]

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
RECORDINGS = "fsdd_8khz_int16.npz"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")

SAMPLE_RATE = 8000  # Hz
_WINDOW, _HOP, _BANDS, _FRAMES = 256, 128, 32, 48
_SAMPLES = _WINDOW + _HOP * (_FRAMES - 1)  # 6272: 0.784 s
_FLOOR = 1e-3  # added before the logarithm; white sound of unit RMS has 1 in every band
_CHUNK = 256  # recordings transformed at once, so that memory stays small

_PAIRS, _NOISE = 0xD0, 0xD1  # keep the two streams of random numbers apart

# Mean and standard deviation: of the 8-bit values of all pixels of the MNIST images in the training pool, and of the
# logarithms of all bands and frames of the recordings of the whole split "train", for each choice of speakers.
_IMAGE = (33.76, 79.14)
_AUDIO = {"all": (-4.914, 2.848), "unseen": (-4.832, 2.871)}


class AVDigits(Dataset[dict[str, Any]]):
    """Classification of digits with two modalities: ``image`` and ``audio``.

    Pairing is by label, as in AV-MNIST. The 10 000 images fall into three pools, of about 6000, 2000 and 2000, by a
    hash of their position in the file: splits share no image, whatever the ``seed``. Within a split, the recordings of
    a digit take the images of that digit from the pool in an order drawn from ``seed``, each once until the pool is
    used up. Which recordings are in a split never depends on ``seed``.

    Splits of the recordings with ``speakers="all"``: the official test recordings, of index 0 to 4 (300); index 5 to 9
    for validation (300); the others for training (2400). With ``speakers="unseen"``: all recordings of theo (500) for
    validation, those of yweweler (500) for test, those of the four others (2000) for training.

    Order: round after round, each with one recording of every digit in hashed order, so that any first part is
    balanced; then, for ``pairs`` above 1, the same recordings again with other images.

    Sound: a recording is scaled to unit RMS (the microphones differ by a factor of ten), and brought to 0.784 s:
    shorter ones stand in the middle of silence, of longer ones (68 of 3000) the part of greatest energy is taken. Then
    the power in 32 triangular mel bands from 60 Hz to 4 kHz (Hann window of 32 ms, every 16 ms) and its logarithm.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds the three files; ``$LIGHTNING_MM_DATA/fsdd_mnist`` when not given.
        speakers: ``all``, or ``unseen``: validation and test on speakers that are not in training.
        noise: Standard deviation of Gaussian noise that is added to every normalised pixel, and to every band and frame
            of the normalised spectrogram; a pure function of seed, split, recording and pair. The sum is not scaled
            back. With 2, a linear classifier of both falls from 0.97 to about 0.91 on the test split.
        train_length: Recordings in the train split, the first in the order above; all when not given. Inputs are
            normalised by the statistics of all of them either way.
        pairs: How often a training recording comes in an epoch, each time with another image.
        eval_pairs: The same for validation and test. More (4 gives 1200 test samples) make the figures of images less
            noisy; the figures of sound alone rest on the same recordings as before, so that intervals that take samples
            for independent are too narrow.
        seed: Another seed gives other pairs and other noise.

    Attributes:
        recordings: Name of the recording of every sample, ``<digit>_<speaker>_<index>``.
        ids: The same: the names that tables go by.
        fields: ``label`` (the digit) and ``speaker`` of every sample, for policies that depend on them.
        image_ids: Position in the MNIST file of the image of every sample.

    Shape:
        A sample is ``{"inputs": {"image": Float[1, 28, 28], "audio": Float[1, 32, 48]}, "target": int}``; frequency
        goes up along the rows of ``audio``.

    Raises:
        DataNotFoundError: If the folder or a file is not there.
        LightningMMError: If an argument is out of range, or a file is damaged or holds something else.

    Reference:
        Jackson et al.: Free Spoken Digit Dataset, github.com/Jakobovski/free-spoken-digit-dataset; LeCun et al.:
        Gradient-based learning applied to document recognition, 1998; pairs as in Vielzeuf et al.: CentralNet, 2018.
    """

    about: ClassVar[About] = AV_DIGITS
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"image": 1, "audio": 1}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        speakers: str = "all",
        noise: float = 0.0,
        train_length: int | None = None,
        pairs: int = 1,
        eval_pairs: int = 1,
        seed: int = 0,
    ) -> None:
        check_choice("AVDigits: split", split, SPLITS)
        check_choice("AVDigits: speakers", speakers, _AUDIO)
        if not (isfinite(noise) and noise >= 0):
            raise LightningMMError(f"AVDigits: noise must be 0 or more, got {noise}")
        for name, value, minimum in (("pairs", pairs, 1), ("eval_pairs", eval_pairs, 1), ("seed", seed, 0)):
            check_whole(f"AVDigits: {name}", value, minimum)
        self.split, self.speakers, self.noise, self.seed = split, speakers, float(noise), seed
        self.root = find_folder("AVDigits", "fsdd_mnist", root, [IMAGES, LABELS, RECORDINGS])
        images, labels = _read_mnist(self.root)
        sounds = _read_recordings(self.root / RECORDINGS)

        order = _order(sounds, np.flatnonzero(_belongs(sounds, split, speakers)))
        if len(order) == 0:
            raise LightningMMError(
                f"AVDigits: {self.root / RECORDINGS} has no recording for split {split!r} with speakers={speakers!r}"
            )
        repeats = pairs if split == "train" else eval_pairs
        chosen = _pair(sounds["digit"][order], labels, split, repeats, seed)
        if split == "train" and train_length is not None:
            if not 1 <= train_length <= len(order):
                raise LightningMMError(
                    f"AVDigits: train_length must be from 1 to the {len(order)} recordings, got {train_length}"
                )
            order, chosen = order[:train_length], chosen[:, :train_length]
        self._repeats, self._count = repeats, len(order)
        self._digits = sounds["digit"][order]
        self._audio = _normalise(log_mel([sounds["samples"][i] for i in order]), _AUDIO[speakers])
        self._images = images[chosen.ravel()]
        self.image_ids = chosen.ravel()
        self.recordings = tuple(sounds["name"][i] for i in order) * repeats
        self.ids = self.recordings
        self.fields = {
            "label": self._digits.tolist() * repeats,
            "speaker": sounds["speaker"][order].tolist() * repeats,
        }

    def __len__(self) -> int:
        return self._count * self._repeats

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("AVDigits", index, len(self), self.split)
        pair, recording = divmod(index, self._count)
        image = _normalise(torch.from_numpy(self._images[index].astype(np.float32)), _IMAGE)[None]
        audio = self._audio[recording][None].clone()
        if self.noise > 0:
            rng = np.random.default_rng([_NOISE, self.seed, SPLITS.index(self.split), recording, pair])
            image += self.noise * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
            audio += self.noise * torch.from_numpy(rng.standard_normal(audio.shape, dtype=np.float32))
        return {"inputs": {"image": image, "audio": audio}, "target": int(self._digits[recording])}


def log_mel(recordings: Iterable[NDArray[np.int16]]) -> Tensor:
    """Compute logarithms of the power in mel bands, of recordings at 8 kHz brought to one level and one length.

    Shape:
        N x ``Int16[S]`` -> ``Float[N, 32, 48]``.
    """
    waves = torch.from_numpy(np.stack([_fit(recording) for recording in recordings]))
    window, bands = torch.hann_window(_WINDOW), torch.from_numpy(_mel_bands())
    spectra = []
    for chunk in waves.split(_CHUNK):
        spectrum = torch.stft(chunk, _WINDOW, _HOP, window=window, center=False, return_complex=True)  # [n, 129, T]
        power = torch.view_as_real(spectrum).square().sum(-1) / window.square().sum()
        spectra.append(torch.log(bands @ power + _FLOOR))
    return torch.cat(spectra)


def _fit(recording: NDArray[np.int16]) -> NDArray[np.float32]:
    """Unit RMS, and exactly ``_SAMPLES`` long: silence on both sides, or the part of greatest energy."""
    wave = recording.astype(np.float64)
    wave /= max(float(np.sqrt(np.mean(wave**2))), 1.0)  # below one step of the 16 bits there is only silence
    spare = len(wave) - _SAMPLES
    if spare > 0:
        energy = np.concatenate([[0.0], np.cumsum(wave**2)])
        start = int(np.argmax(energy[_SAMPLES:] - energy[: spare + 1]))
        return wave[start : start + _SAMPLES].astype(np.float32)
    return np.pad(wave, (-spare // 2, -spare - (-spare // 2))).astype(np.float32)


def _mel_bands() -> NDArray[np.float32]:
    """Triangles that overlap by half, equally wide on the mel scale; each sums to 1. ``Float[32, 129]``."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, SAMPLE_RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    bins = np.arange(_WINDOW // 2 + 1) * SAMPLE_RATE / _WINDOW
    left, centre, right = (edges[i : i + _BANDS, None] for i in range(3))
    bands = np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0, None)
    return (bands / bands.sum(1, keepdims=True)).astype(np.float32)


def _normalise(values: Tensor, statistics: tuple[float, float]) -> Tensor:
    mean, std = statistics
    return (values - mean) / std


def _belongs(sounds: dict[str, Any], split: str, speakers: str) -> NDArray[np.bool_]:
    """Select the recordings of a split. ``Bool[N]``."""
    if speakers == "all":
        # Up to 4: test; up to 9: validation.
        return np.asarray(np.searchsorted([5, 10], sounds["index"], side="right") == 2 - SPLITS.index(split))
    held_out = {"val": SPEAKERS[-2], "test": SPEAKERS[-1]}
    if split == "train":
        return ~np.isin(sounds["speaker"], list(held_out.values()))
    return np.asarray(sounds["speaker"] == held_out[split])


def _order(sounds: dict[str, Any], members: Array) -> Array:
    """Sort the members so that every first part is balanced over the digits and speakers are mixed."""
    keys = {int(i): fraction("av_digits", f"recording/{sounds['name'][i]}") for i in members}
    rounds: dict[int, int] = {}
    for digit in range(10):
        own = sorted((i for i in keys if sounds["digit"][i] == digit), key=keys.__getitem__)
        rounds.update({i: position for position, i in enumerate(own)})
    return np.array(sorted(keys, key=lambda i: (rounds[i], keys[i])), dtype=np.int64)


def _pair(digits: Array, labels: Array, split: str, repeats: int, seed: int) -> Array:
    """Choose an image of the right digit for every recording, from the pool of the split. ``Int64[repeats, N]``."""
    fractions = np.array([fraction("av_digits", f"image/{i}") for i in range(len(labels))])
    pool = np.flatnonzero(np.searchsorted([0.6, 0.8], fractions, side="right") == SPLITS.index(split))
    rng = np.random.default_rng([_PAIRS, seed, SPLITS.index(split)])
    pool = pool[np.argsort(rng.random(len(pool)), kind="stable")]
    chosen = np.zeros((repeats, len(digits)), dtype=np.int64)
    for digit in np.unique(digits):
        own, images = digits == digit, pool[labels[pool] == digit]
        if len(images) == 0:
            raise LightningMMError(f"AVDigits: {LABELS} has no image of digit {digit} for split {split!r}")
        count = int(own.sum())
        chosen[:, own] = np.resize(images, repeats * count).reshape(repeats, count)
    return chosen


def _read_mnist(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """``UInt8[N, 28, 28]`` and ``UInt8[N]``."""
    images, labels = _read_idx(root / IMAGES, 3), _read_idx(root / LABELS, 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise LightningMMError(
            f"AVDigits: expected as many images of 28 x 28 pixels as labels in {root}, got images {images.shape} and "
            f"labels {labels.shape}"
        )
    check_labels(root / LABELS, labels, range(10), "a digit, 0 to 9")
    return images, labels


def _read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """Read an array of bytes in MNIST's format: magic number 0x0000080<rank>, then the sizes, each in four bytes."""
    with reading(path):
        data = gzip.decompress(path.read_bytes())
    head = 4 * (1 + rank)
    shape = tuple(int(size) for size in np.frombuffer(data[4:head], dtype=">u4")) if len(data) >= head else ()
    if data[:4] != bytes([0, 0, 8, rank]) or len(data) - head != int(np.prod(shape, dtype=np.int64)):
        raise damaged(
            path,
            f"header {data[:head].hex()}, {len(data)} bytes; expected an idx file of bytes with {rank} axes",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)


def _read_recordings(path: Path) -> dict[str, Any]:
    """``samples``: N x ``Int16[S]``; ``digit``, ``speaker``, ``index``: ``[N]``; ``name``: N strings."""
    names = ["digit", "speaker", "index"]
    forms = {"samples": (NUMBERS, 1), "length": (INTEGERS, 1), "sample_rate": (INTEGERS, 0)}
    forms |= {"digit": (INTEGERS, 1), "speaker": (STRINGS, 1), "index": (INTEGERS, 1)}
    arrays = read_npz(path, forms)
    length = arrays["length"]
    if int(arrays["sample_rate"]) != SAMPLE_RATE or arrays["samples"].dtype != np.int16:
        raise LightningMMError(
            f"AVDigits: {path} should hold int16 samples at {SAMPLE_RATE} Hz, got {arrays['samples'].dtype} at "
            f"{arrays['sample_rate']} Hz"
        )
    sizes = {name: len(arrays[name]) for name in names}
    if set(sizes.values()) != {len(length)} or length.sum() != len(arrays["samples"]) or length.min(initial=1) < 1:
        raise damaged(
            path,
            f"{len(length)} lengths of {length.sum()} samples in all, but {sizes} and {len(arrays['samples'])} samples",
        )
    check_labels(path, arrays["digit"], range(10), "a digit, 0 to 9")
    keys = zip(*(arrays[name].tolist() for name in names))
    return {
        "samples": np.split(arrays["samples"], np.cumsum(length)[:-1]),
        "name": ["_".join(map(str, key)) for key in keys],
        **{name: arrays[name] for name in names},
    }
