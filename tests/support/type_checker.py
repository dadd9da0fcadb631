"""The type checker of tests/conftest.py: beartype, with an int where a float is asked for, as PEP 484 has it."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
