"""Which settings are secrets: their values are masked, references to the environment stay."""

from __future__ import annotations

import pytest

from lightning_mm.settings_files import MASK, tell_secrets, without_secrets


def test_values_of_secret_names_are_masked_at_any_depth() -> None:
    settings = {
        "lr": 0.1,
        "max_tokens": 5,
        "hub": [{"api_key": "abc", "name": "x"}],
        "model.access_key": "abc",
        "password": ["abc", "def"],
        "hf_token": "${oc.env:HF_TOKEN}",
        "secret": "",
    }
    assert without_secrets(settings) == {
        "lr": 0.1,
        "max_tokens": 5,
        "hub": [{"api_key": MASK, "name": "x"}],
        "model.access_key": MASK,
        "password": [MASK, MASK],
        "hf_token": "${oc.env:HF_TOKEN}",
        "secret": "",
    }
    assert settings["password"] == ["abc", "def"], "a copy"


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (["fit", "--model.init_args.api_key=abc"], True),
        (["fit", "--model.init_args.api_key", "abc"], True),
        (["compare", "--set", "data.password=abc"], True),
        (["fit", "--model.init_args.api_key", "${oc.env:KEY}"], False),
        (["fit", "-c", "secret", "base.yaml"], False),
        (["fit", "--seed_everything", "1"], False),
        ([], False),
    ],
)
def test_commands_that_give_a_secret(words: list[str], tells: bool) -> None:
    assert tell_secrets(words) is tells
