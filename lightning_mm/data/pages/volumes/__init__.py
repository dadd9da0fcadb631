"""Pages of data sets of volumes."""
