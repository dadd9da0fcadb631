"""Data sets of images and texts, one file each."""
