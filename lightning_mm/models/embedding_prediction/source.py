"""What is read of an encoder: the tokens of its blocks, a feature map, or its vector.

Shapes: B samples, L tokens, C channels, D width of an encoder's vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models.embedding_prediction.blocks import BlockInput, form_of, input_of
from lightning_mm.models.embedding_prediction.read_only import ReadOnlyPrompts, ReadOnlyQueries

_HEARD: ContextVar[dict[object, Any] | None] = ContextVar("lightning_mm_read_only", default=None)
"""What hooks keep in the calls of this thread; None outside of :func:`listening`."""
_START = ("cls_token", "class_embedding", "answer")
"""Parameters that prompts start from, if an encoder has one."""
_NORM = ("norm", "layernorm", "final_norm")
"""The norm after the last block, if an encoder has one."""


@contextmanager
def listening() -> Iterator[None]:
    """Keep what is read of encoders that run inside this context, in this thread."""
    token = _HEARD.set({})
    try:
        yield
    finally:
        _HEARD.reset(token)


class _Tap:
    """Keeps something of a call; an object, so that it survives deepcopy and pickle."""

    def keep(self, value: Any) -> None:
        heard = _HEARD.get()
        if heard is not None:
            heard[self] = value


class _BlockTap(_Tap):
    """Stands in for the ``forward`` of a block and keeps what it gets.

    Not a hook: with hooks ``nn.TransformerEncoderLayer`` leaves its fused path, which rounds differently.
    """

    def __init__(self, block: nn.Module) -> None:
        form = form_of(block)
        assert form is not None
        self.block, self.form, self.own = block, form, vars(block).get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.keep(input_of(self.form, self.block, args, kwargs))
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.block).forward(self.block, *args, **kwargs)


class _OutputTap(_Tap):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.keep(output)


class Source(nn.Module):
    """Reads one encoder with prompts or queries; owns these and not the encoder.

    Args:
        modality: For messages.
        encoder: Any module that returns a vector per sample.
        width: The width D of that vector.
        prompts: Number of prompts or queries; 0 reads the vector itself.
        read: Name of the part of the encoder to read: a list of blocks of a transformer, or a module that returns a
            map ``[B, C, ...]`` or a sequence ``[B, L, C]``. By default its blocks if it has some, else its
            ``feature_map`` if it names one, else its vector.

    Attributes:
        out_channels: Width of what is read.

    Raises:
        LightningMMError: If there is no such part, or its width cannot be told.
    """

    def __init__(
        self, modality: str, encoder: nn.Module, width: int, prompts: int = 4, read: str | None = None
    ) -> None:
        super().__init__()
        self.modality, self.out_channels = modality, width
        self.reader: ReadOnlyPrompts | ReadOnlyQueries | None = None
        self._taps: list[_Tap] = []
        self._channels_last = True
        if not prompts:
            return
        name = _default(encoder) if read is None else read
        part = _part(modality, encoder, name)
        blocks = _blocks(part)
        if blocks:
            start = next((p for key, p in encoder.named_parameters() if key.rpartition(".")[2] in _START), None)
            self.out_channels = _width_of_blocks(blocks[-1])
            usable = start is not None and start.shape[-1] == self.out_channels == start.numel()
            self.reader = ReadOnlyPrompts(
                blocks, self.out_channels, prompts, _final_norm(encoder, self.out_channels), start if usable else None
            )
            for block in blocks:
                tap = _BlockTap(block)
                block.forward = tap
                self._taps.append(tap)
            return
        if name:
            found = _features_of(part)
            if found is None:
                raise LightningMMError(
                    f"modality {modality!r}: the width of what {name!r} returns cannot be told from its layers; name a "
                    "part that ends with a convolution, a linear layer or a norm"
                )
            self.out_channels, self._channels_last = found
            tap_of_map = _OutputTap()
            part.register_forward_hook(tap_of_map)
            self._taps.append(tap_of_map)
        self.reader = ReadOnlyQueries(self.out_channels, prompts)

    def forward(self, vector: Tensor) -> Tensor:
        """``[B, C]``: the mean over prompts or queries; call it inside :func:`listening`, after the encoder.

        Args:
            vector: The encoder's vector ``[B, D]``.
        """
        if self.reader is None:
            return vector
        heard = _HEARD.get() or {}
        absent = [tap for tap in self._taps if tap not in heard]
        if absent:
            raise LightningMMError(f"modality {self.modality!r}: the part of its encoder that is read did not run")
        if isinstance(self.reader, ReadOnlyPrompts):
            inputs = cast(Sequence[BlockInput], [heard[tap] for tap in self._taps])
            if any(one.tokens.is_nested or one.tokens.ndim != 3 for one in inputs):
                raise LightningMMError(
                    f"modality {self.modality!r}: its encoder packs padded tokens; make nn.TransformerEncoder with "
                    "enable_nested_tensor=False"
                )
            return self.reader(inputs).mean(1)
        features = heard[self._taps[0]] if self._taps else vector.unsqueeze(1)
        return self.reader(self._tokens(features, vector)).mean(1)

    def _tokens(self, features: Any, vector: Tensor) -> Tensor:
        axis = -1 if self._channels_last else 1
        right = isinstance(features, Tensor) and features.ndim > 1 and features.shape[0] == vector.shape[0]
        if not right or features.shape[axis] != self.out_channels:
            came = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            place = "last" if self._channels_last else "second"
            raise LightningMMError(
                f"modality {self.modality!r}: expected features of {len(vector)} samples with {self.out_channels} "
                f"channels on the {place} axis from the part that is read, got {came}; name another part in `read`"
            )
        if features.ndim == 2:
            return cast(Tensor, features).unsqueeze(1)
        if self._channels_last:
            return cast(Tensor, features).flatten(1, -2)
        return cast(Tensor, features).flatten(2).transpose(1, 2)


def _default(encoder: nn.Module) -> str:
    """Name of the part that is read if none is given; empty for the encoder's vector."""
    for name, part in encoder.named_modules():
        if name and _blocks(part):
            return name
    return str(getattr(encoder, "feature_map", ""))


def _part(modality: str, encoder: nn.Module, name: str) -> nn.Module:
    parts = dict(encoder.named_modules())
    if name not in parts:
        close = [one for one in parts if one and one.count(".") < 2][:8]
        raise LightningMMError(
            f"modality {modality!r}: `read` names {name!r}, and {type(encoder).__name__} has no such part; it has "
            f"{', '.join(close) or 'none'}"
        )
    return parts[name]


def _blocks(part: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, if all entries of a list are such."""
    if not isinstance(part, (nn.ModuleList, nn.Sequential)) or not len(part):
        return []
    blocks = list(part)
    return blocks if all(form_of(block) is not None for block in blocks) else []


def _width_of_blocks(block: nn.Module) -> int:
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    return int(norms[-1].normalized_shape[-1])


def _final_norm(encoder: nn.Module, width: int) -> nn.Module | None:
    for name in _NORM:
        norm = getattr(encoder, name, None)
        if isinstance(norm, nn.LayerNorm) and tuple(norm.normalized_shape) == (width,):
            return norm
    return None


def _features_of(part: nn.Module) -> tuple[int, bool] | None:
    """Channels of what a part returns, and whether they are on the last axis; by its last layer."""
    for module in reversed(list(part.modules())):
        if isinstance(module, nn.modules.conv._ConvNd):
            return module.out_channels, False
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return module.num_features, False
        if isinstance(module, nn.GroupNorm):
            return module.num_channels, False
        if isinstance(module, nn.LayerNorm):
            return int(module.normalized_shape[-1]), True
        if isinstance(module, nn.Linear):
            return module.out_features, True
    return None


def width_of(modality: str, encoder: nn.Module) -> int:
    """Width of the vector of an encoder of ours, of timm or of transformers.

    Raises:
        LightningMMError: If it does not say it.
    """
    given: Any = getattr(encoder, "out_channels", getattr(encoder, "num_features", None))
    if given is None:
        given = getattr(getattr(encoder, "config", None), "hidden_size", None)
    if not isinstance(given, int) or isinstance(given, bool):
        raise LightningMMError(
            f"modality {modality!r}: its encoder {type(encoder).__name__} must say how wide its vectors are in an "
            "attribute `out_channels`"
        )
    return given


def vector_of(encoder: nn.Module, value: Any) -> Any:
    """Run an encoder and return its vectors.

    An encoder of transformers, which has a ``config``, gets the entries of a dict by name; of what it returns this is
    ``pooler_output`` if there is one, else the first token of the last block.
    """
    of_transformers = hasattr(encoder, "config") and hasattr(encoder, "main_input_name")
    output = encoder(**value) if of_transformers and isinstance(value, Mapping) else encoder(value)
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, Tensor):
        return pooled
    last = getattr(output, "last_hidden_state", None)
    return last[:, 0] if isinstance(last, Tensor) else output


def refuse_packing(encoders: nn.Module) -> None:
    """Switch off the packing of padded sequences in ``nn.TransformerEncoder``: packed tokens cannot be read."""
    for module in encoders.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
            module.enable_nested_tensor = False
