"""Pictures of predictions, one file per combination: ``pictures/<kind>_<combination>.png`` in the folder of a sweep.

Kinds: ``segmentation`` (inputs, truth, and the prediction of every method), ``confusion`` (which class is taken for
which), ``values`` (predicted against true numbers).
"""

from lightning_mm.results.pictures.examples import Examples, merge_examples, read_examples, write_examples
from lightning_mm.results.pictures.write import FOLDER, KINDS, Picture, find_pictures, write_pictures

__all__ = [
    "FOLDER", "KINDS", "Examples", "Picture", "find_pictures", "merge_examples", "read_examples", "write_examples",
    "write_pictures",
]  # fmt: skip
