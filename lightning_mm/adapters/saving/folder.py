"""The files of a saved adapter: ``adapter_model.safetensors``, and ``adapter_config.json`` with a base fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import InputPath, forward_of, parameter_path
from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.adapters.saving.settings import from_settings, settings_of
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import replaced_files, sha256
from lightning_mm.json_files import parse_json, read_json
from lightning_mm.missing import Fill
from lightning_mm.modalities import Modalities
from lightning_mm.version import __version__

WAY_OUT = "save the adapter again"
CONFIG_DIGEST = "config_sha256"
"""Entry of the config that ties it to itself; folders of older versions lack it."""
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
    """Build a fresh adapter from the description by :func:`adapter_config`.

    Raises:
        LightningMMError: If a class is unknown, or refuses its arguments.
    """
    adapter = Adapter(
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
    if list(adapter.basis.names) != list(config["rows"]):
        raise LightningMMError(
            f"rows: {type(adapter.basis).__name__} has the rows {list(adapter.basis.names)[:8]}, got "
            f"{list(config['rows'])[:8]}"
        )
    return adapter


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
    problems += [
        f"{key}: expected {expected[key].dtype}, got {found[key].dtype}"
        for key in sorted(set(expected) & set(found))
        if expected[key].is_floating_point() != found[key].is_floating_point()
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
        digests = {DIGEST: sha256(new / WEIGHTS), CONFIG_DIGEST: _digest_of(config)}
        (new / CONFIG).write_text(json.dumps({**config, **digests}, indent=2) + "\n", encoding="utf-8")


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
    config = _read_config(folder)
    check_fingerprint(config["base_fingerprint"], network)
    try:
        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors reports damage in many ways, depending on where it begins
        raise LightningMMError(f"{folder / WEIGHTS} is damaged ({error}); {WAY_OUT}") from None
    try:
        adapter = adapter_from_config(config)
    except LightningMMError as error:
        raise LightningMMError(f"the adapter in {folder}: {error}") from error
    except Exception as error:  # any argument of a kind, basis or fill may be wrong
        raise LightningMMError(
            f"the adapter in {folder} is damaged ({type(error).__name__}: {error}); {WAY_OUT}"
        ) from error
    _check_place(adapter, network, folder)
    check_keys(adapter.state_dict(), weights, str(folder / WEIGHTS))
    adapter.load_state_dict(weights)
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    """Read the config, and check its fields and that neither file was changed."""
    path = folder / CONFIG
    config = dict(read_json(path, WAY_OUT))
    _check_fields(config, path)
    digest = config.get(CONFIG_DIGEST)
    if digest is not None and digest != _digest_of(config):  # older releases wrote none
        raise LightningMMError(f"{path} is damaged (it was changed after it was saved); {WAY_OUT}")
    _check_digest(folder, config.get(DIGEST))
    return config


def check_config(config: object, where: str) -> None:
    """Raise a LightningMMError unless ``config`` is a description by :func:`adapter_config`."""
    try:
        plain = parse_json(json.dumps(config))  # a tuple counts as a list
    except (TypeError, ValueError, RecursionError) as error:
        raise LightningMMError(f"{where} is damaged ({error}); {WAY_OUT}") from None
    _check_fields(plain, where)


def _check_fields(config: object, where: object) -> None:
    from lightning_mm.schemas.adapter import AdapterConfig
    from lightning_mm.schemas.base import check

    check(AdapterConfig, config, where, WAY_OUT)


def _digest_of(config: Mapping[str, Any]) -> str:
    """Hash a config without its hashes."""
    state = {key: value for key, value in config.items() if key not in (DIGEST, CONFIG_DIGEST)}
    plain = json.loads(json.dumps(state))  # keys are texts then, as in the file
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _check_place(adapter: Adapter, network: nn.Module, folder: Path) -> None:
    """Raise a LightningMMError unless the network has the layers and arguments that the adapter names."""
    modules, name = dict(network.named_modules()), type(network).__name__
    needed = (*(site.name for site in adapter.sites), *adapter.encoders.values(), *adapter.deep_supervision)
    missing = [one for one in needed if one not in modules]
    if missing:
        raise LightningMMError(
            f"the adapter in {folder} adapts layers that this {name} does not have: {missing}; load it onto the "
            "network that it was trained on"
        )
    parameters = forward_of(network).parameters.values()
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    for modality, path in adapter.paths.items():
        own = parameter_path(network, path.name)
        if (own is None and not takes_any) or (own is not None and own.position != path.position):
            raise LightningMMError(
                f"the adapter in {folder} reads modality {modality!r} from argument {path.name!r} at position "
                f"{path.position}, which forward({', '.join(one.name for one in parameters)}) of this {name} does not "
                "have; load it onto the network that it was trained on"
            )


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
