"""Results of sweeps as plain data, and functions that read, write and draw them; needs neither torch nor Lightning."""
