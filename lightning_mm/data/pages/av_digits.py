"""The page of AVDigits."""

from lightning_mm.data.about import About

AV_DIGITS = About(
    name="fsdd_mnist",
    data_set="AVDigits",
    title="AVDigits: digits spoken (Free Spoken Digit Dataset) and written (MNIST), 10 classes",
    source="github.com/Jakobovski/free-spoken-digit-dataset, recordings packed into one file; MNIST test "
    "images from github.com/fgnt/mnist",
    licence="Free Spoken Digit Dataset CC BY-SA 4.0; MNIST: no licence file, commonly given as CC BY-SA 3.0",
    reference="Jackson et al.: Free Spoken Digit Dataset; LeCun et al., 1998; pairs as in CentralNet, 2018",
    tree="""\
fsdd_mnist/
  fsdd_8khz_int16.npz                recordings one behind the other, with their lengths, digits and speakers
  t10k-images-idx3-ubyte.gz          as released
  t10k-labels-idx1-ubyte.gz          as released""",
    counts={"train": 2400, "val": 300, "test": 300},
    notes="Pairs are by label and drawn by us. The counts are of recordings with speakers=all and one pair each.",
    modalities=("image", "audio"),
    class_names=tuple("0123456789"),
)
