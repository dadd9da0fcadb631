"""The files of a saved adapter: ``adapter_model.safetensors``, and ``adapter_config.json`` with a base fingerprint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import InputPath
from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.adapters.saving.settings import from_settings, settings_of
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import replaced_files, sha256
from lightning_mm.missing import Fill
from lightning_mm.modalities import Modalities
from lightning_mm.version import __version__

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIGEST = "weights_sha256"
"""Entry of the config that ties it to its weights; folders of older versions lack it."""
NAME = re.compile(r"\w[\w.+-]*")
"""Pattern of the names of adapters in one folder."""


def adapter_config(adapter: Adapter, base_fingerprint: str) -> dict[str, Any]:
    """Describe an adapter without its weights, in plain types."""
    return {
        "version": __version__,
        "kind": settings_of(adapter.kind),
        "basis": settings_of(adapter.basis),
        "fill": None if adapter.fill is None else settings_of(adapter.fill),
        "modalities": list(adapter.modalities),
        "rows": list(adapter.basis.names),
        "sites": [site.to_dict() for site in adapter.sites],
        "inputs": {name: path.to_dict() for name, path in adapter.paths.items()},
        "encoders": adapter.encoders,
        "grouped": adapter.grouped,
        "for_all": adapter.for_all,
        **({"deep_supervision": adapter.deep_supervision} if adapter.deep_supervision else {}),
        "base_fingerprint": base_fingerprint,
    }


def adapter_from_config(config: Mapping[str, Any]) -> Adapter:
    """Build a fresh adapter from the description by :func:`adapter_config`."""
    return Adapter(
        from_settings(config["kind"], Kind),
        from_settings(config["basis"], Basis),
        Modalities(config["modalities"]),
        None if config["fill"] is None else from_settings(config["fill"], Fill),
        [Site.from_dict(site) for site in config["sites"]],
        {name: InputPath.from_dict(path) for name, path in config["inputs"].items()},
        config.get("encoders", {}),
        config.get("grouped", False),
        config.get("for_all", []),
        config.get("deep_supervision", []),
    )


def check_fingerprint(expected: str, network: nn.Module) -> None:
    """Raise a LightningMMError unless the network has the weights that the adapter was trained on."""
    actual = fingerprint(network)
    if actual != expected:
        raise LightningMMError(
            f"the adapter was trained on a base with fingerprint {expected}, but this {type(network).__name__} has "
            f"{actual}: it is another network or has other weights; load the checkpoint of the base first"
        )


def check_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Raise a LightningMMError that names every key that is missing, left over or has another shape."""
    problems = [f"missing {key}" for key in sorted(set(expected) - set(found))]
    problems += [f"left over {key}" for key in sorted(set(found) - set(expected))]
    problems += [
        f"{key}: expected shape {tuple(expected[key].shape)}, got {tuple(found[key].shape)}"
        for key in sorted(set(expected) & set(found))
        if expected[key].shape != found[key].shape
    ]
    if problems:
        raise LightningMMError(f"{where} does not fit the adapter: {'; '.join(problems)}")


def list_adapters(folder: str | Path) -> list[str]:
    """List the adapters that were saved by name in a folder, sorted; an adapter saved without a name is not listed.

    Raises:
        DataNotFoundError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataNotFoundError(f"no saved adapters in {folder}: it is not a folder; `save(folder, name)` creates it")
    return sorted(one.name for one in folder.iterdir() if NAME.fullmatch(one.name) and _is_adapter(one))


def place_of(folder: str | Path, name: str | None) -> Path:
    """Return the folder of an adapter: ``folder`` itself, or a folder with its name inside.

    Raises:
        LightningMMError: If the name is not a valid folder name on every system.
    """
    if name is None:
        return Path(folder)
    if not NAME.fullmatch(name) or name in (WEIGHTS, CONFIG):
        raise LightningMMError(
            f"the name of an adapter must be letters, digits, '_', '+', '-' and '.', must not start with '+', '-' or "
            f"'.', and must not be {WEIGHTS} or {CONFIG}, got {name!r}; choose one such as 'lora' or 'rgb+depth'"
        )
    return Path(folder) / name


def _is_adapter(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (WEIGHTS, CONFIG))


def save_adapter(adapter: Adapter, network: nn.Module, folder: str | Path, name: str | None = None) -> None:
    """Write both files to a temporary folder and rename them, so that a folder never holds half an adapter.

    A kill between the two renames leaves a config whose digest is not that of the weights, which is refused.

    Args:
        adapter: The adapter.
        network: Its base, for the fingerprint.
        folder: Created if missing.
        name: Name of one of several adapters in the folder, each of which is saved in a folder inside.

    Raises:
        LightningMMError: If the name is not a valid folder name.
    """
    folder = place_of(folder, name)
    config = adapter_config(adapter, fingerprint(network))
    weights = {key: value.detach().cpu().contiguous() for key, value in adapter.state_dict().items()}
    with replaced_files(folder, last=CONFIG) as new:
        # Not save_file, whose error of a full disk is a text.
        (new / WEIGHTS).write_bytes(to_bytes(weights))
        text = json.dumps({**config, DIGEST: sha256(new / WEIGHTS)}, indent=2)
        (new / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def load_adapter(folder: str | Path, network: nn.Module, name: str | None = None) -> Adapter:
    """Read a saved adapter for a network, without attaching it.

    Args:
        folder: As given to ``save``.
        network: The base.
        name: As given to ``save``.

    Raises:
        DataNotFoundError: If a file is missing, or there is no adapter of that name.
        LightningMMError: If the folder holds adapters by name and no name is given, a file is damaged, the network is
            another one, or keys do not match; the message says which.
    """
    root, folder = Path(folder), place_of(folder, name)
    if not _is_adapter(folder):
        _explain_absence(root, folder, name)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        adapter = adapter_from_config(config)
    except (json.JSONDecodeError, SafetensorError, KeyError, TypeError) as error:
        raise LightningMMError(
            f"the adapter in {folder} is damaged ({type(error).__name__}: {error}); save it again"
        ) from None
    _check_digest(folder, config.get(DIGEST))
    check_fingerprint(config["base_fingerprint"], network)
    modules = dict(network.named_modules())
    missing = [site.name for site in adapter.sites if site.name not in modules]
    if missing:
        raise LightningMMError(
            f"the adapter in {folder} adapts layers that this {type(network).__name__} does not have: {missing}; "
            "load it onto the network that it was trained on"
        )
    check_keys(adapter.state_dict(), weights, str(folder / WEIGHTS))
    adapter.load_state_dict(weights)
    return adapter


def _check_digest(folder: Path, digest: str | None) -> None:
    """Refuse weights that were not saved together with the config next to them."""
    if digest is not None and digest != sha256(folder / WEIGHTS):
        raise LightningMMError(
            f"{folder / WEIGHTS} and {CONFIG} next to it were not saved together: a save was killed half way, or one "
            "of them was replaced or damaged; save the adapter again"
        )


def _explain_absence(root: Path, folder: Path, name: str | None) -> NoReturn:
    """Raise an error that says why a folder holds no adapter, and which adapters exist."""
    others = list_adapters(root) if root.is_dir() else []
    if name is None and others:
        raise LightningMMError(f"{root} holds adapters by name: {others}; pass one of them, e.g. name={others[0]!r}")
    absent = next(file for file in (WEIGHTS, CONFIG) if not (folder / file).is_file())
    known = f"; adapters with these names exist: {others}" if others else ""
    raise DataNotFoundError(
        f"no saved adapter in {folder}: {absent} is missing; `save` writes {WEIGHTS} and {CONFIG}{known}"
    )
