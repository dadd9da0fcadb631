"""All planted faults: mistakes that the quick tests must notice."""

from __future__ import annotations

from tests.power.network_faults import NETWORK_FAULTS
from tests.power.run_faults import RUN_FAULTS

FAULTS = (*NETWORK_FAULTS, *RUN_FAULTS)
