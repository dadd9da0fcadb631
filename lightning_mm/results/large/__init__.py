"""How sweeps of many combinations are shown."""
