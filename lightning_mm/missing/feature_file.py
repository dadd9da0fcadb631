"""The outputs of encoders on training data, and the file that holds them, for the fills of features.

Shapes: N samples that observed every modality, D_m features of the encoder of modality m.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.tree import leaves_of, tensors_of

FORMAT = "lightning_mm features 1"
AGAIN = "write it again with `lightning-mm features`"


@dataclass(frozen=True)
class EncoderFeatures:
    """What encoders return for training data.

    Args:
        encoders: Modality to the name of its encoder, a module of the network.
        means: Modality to the mean output of its encoder without the batch axis: a tensor, or a dict, list or tuple of
            tensors as the encoder returns it.
        vectors: Modality to its features ``[N, D_m]`` of the N samples that observed every modality, row by row the
            same samples; empty if an encoder returns anything but vectors ``[B, D_m]``.
        shapes: Modality to the shapes of the tensors that its encoder got, without the batch axis; of encoders that
            return maps or sequences, whose sizes depend on these.
    """

    encoders: Mapping[str, str]
    means: Mapping[str, Any]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    shapes: Mapping[str, list[tuple[int, ...]]] = field(default_factory=dict)


def save_features(features: EncoderFeatures, path: str | Path) -> None:
    """Write features for the fills FeatureMean, FeatureRetrieval and FeatureRegression, e.g. ``features.safetensors``.

    Raises:
        LightningMMError: If there is a folder at ``path``, or a file where a folder is needed.
    """
    tensors = {
        f"mean/{name}/{number}": leaf
        for name, mean in features.means.items()
        for number, leaf in enumerate(tensors_of(mean))
    }
    tensors |= {f"features/{name}": rows for name, rows in features.vectors.items()}
    plain = {key: leaf.detach().to("cpu", torch.float32).contiguous() for key, leaf in tensors.items()}
    about = {
        "format": FORMAT,
        "encoders": json.dumps(dict(features.encoders)),
        "forms": json.dumps({name: _form(mean) for name, mean in features.means.items()}),
        "shapes": json.dumps(dict(features.shapes)),
    }
    write_atomically(path, save(plain, metadata=about))


def read_features(path: str | Path) -> EncoderFeatures:
    """Read features from a file, all in float32.

    Raises:
        DataNotFoundError: If the file does not exist.
        LightningMMError: If it is damaged or of another kind; the message names the file and the way out.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(
            f"no features at {path}; write them with `lightning-mm features`, or with "
            "lightning_mm.missing.save_features(encoder_features(...), path)"
        )
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path)
    except Exception as error:  # safetensors reports damage in many ways, depending on where it begins
        raise LightningMMError(f"the features in {path} are damaged or in another format ({error}); {AGAIN}") from error
    if about.get("format") != FORMAT:
        raise LightningMMError(f"{path} holds no features (format {about.get('format')!r}); {AGAIN}")
    odd = [key for key, leaf in tensors.items() if leaf.dtype != torch.float32 or not leaf.isfinite().all()]
    if odd:
        raise LightningMMError(
            f"the features in {path} are damaged ({odd[0]!r}: expected finite float32, got {tensors[odd[0]].dtype}); "
            f"{AGAIN}"
        )
    try:
        encoders, forms = json.loads(about["encoders"]), json.loads(about["forms"])
        shapes = {
            name: [tuple(int(size) for size in one) for one in each]
            for name, each in json.loads(about["shapes"]).items()
        }
        means = {name: _built(forms[name], _leaves(tensors, name)) for name in encoders}
        if not all(isinstance(name, str) for name in encoders.values()):
            raise TypeError("the name of an encoder is no text")
        vectors = {name: tensors[f"features/{name}"] for name in encoders if f"features/{name}" in tensors}
        sizes = {(rows.ndim, len(rows)) for rows in vectors.values()}
        if vectors and (len(vectors) != len(encoders) or len(sizes) != 1 or next(iter(sizes))[0] != 2):
            raise ValueError(f"expected one table [N, D] of each modality, got those of {list(vectors)}")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise LightningMMError(f"the features in {path} are damaged ({error!r}); {AGAIN}") from error
    return EncoderFeatures(encoders, means, vectors, shapes)


def check_output(name: str, output: Any) -> None:
    """Refuse outputs of an encoder that have no mean.

    Raises:
        LightningMMError: If they are anything but floating-point tensors, or dicts, lists and tuples of these.
    """
    form = _form(output)
    odd = [leaf for _, leaf in leaves_of(output) if not (isinstance(leaf, Tensor) and leaf.is_floating_point())]
    if odd or not tensors_of(output):
        came = odd[0].dtype if odd and isinstance(odd[0], Tensor) else type(odd[0]).__name__ if odd else form
        raise LightningMMError(
            f"the encoder of {name!r} returns {came}, which has no mean; expected floating-point tensors"
        )


def _form(nest: Any) -> Any:
    """Describe the containers of a nest in plain types: null for a leaf, else the kind of container and its items."""
    if type(nest) in (list, tuple):
        return {type(nest).__name__: [_form(item) for item in nest]}
    if type(nest) is dict and all(isinstance(key, str) for key in nest):
        return {"dict": [[key, _form(item)] for key, item in nest.items()]}
    if isinstance(nest, (Mapping, list, tuple)):
        raise LightningMMError(
            f"an encoder returns a {type(nest).__name__}; expected a tensor, or a dict, list or tuple of tensors"
        )
    return None


def _built(form: Any, leaves: list[Tensor]) -> Any:
    """Build a nest of this form; takes its leaves from the front of the list."""
    made = _take(form, leaves)
    if leaves:
        raise ValueError(f"{len(leaves)} tensors too many")
    return made


def _take(form: Any, leaves: list[Tensor]) -> Any:
    if form is None:
        if not leaves:
            raise ValueError("a tensor is missing")
        return leaves.pop(0)
    ((kind, items),) = form.items()
    if kind == "dict":
        return {str(key): _take(item, leaves) for key, item in items}
    return {"list": list, "tuple": tuple}[kind](_take(item, leaves) for item in items)


def _leaves(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    found: list[Tensor] = []
    while (key := f"mean/{name}/{len(found)}") in tensors:
        found.append(tensors[key])
    return found
