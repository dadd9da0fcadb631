"""The verbs that run a trainer: LightningCLI with ``fit validate test predict sweep export mean_input features``."""
