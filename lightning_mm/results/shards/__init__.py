"""A sweep in parts: every shard runs some of the combinations."""
