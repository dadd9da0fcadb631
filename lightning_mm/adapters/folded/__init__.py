"""Networks folded for one combination."""
