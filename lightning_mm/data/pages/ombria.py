"""The page of Ombria."""

from lightning_mm.data.about import About

OMBRIA = About(
    name="ombria",
    data_set="Ombria",
    title="OMBRIA: flood mapping, Sentinel-1 and -2 before and after, 2 classes, 256 x 256",
    source="github.com/geodrak/OMBRIA (the authors)",
    licence="none found; imagery is Copernicus Sentinel (open, with attribution); ask before passing it on",
    reference="Drakonakis et al.: OmbriaNet, IEEE JSTARS 2022",
    tree="""\
ombria/
  train_ids.txt  test_ids.txt (may be left out)                      ids of tiles
  OmbriaS1/{train,test}/{BEFORE,AFTER}/S1_{before,after}_ID.png      8-bit gray
  OmbriaS1/{train,test}/MASK/S1_mask_ID.png (or under OmbriaS2)      0 and 255
  OmbriaS2/{train,test}/{BEFORE,AFTER}/S2_{before,after}_ID.png      8-bit RGB""",
    counts={"train": 624, "test": 70},
    notes="""\
There is no list for val: a keyed part of the training tiles (val_fraction, 0.2) becomes val, and train is the rest.
Tiles of one flood lie in all splits, so that figures say nothing about floods never seen.""",
    modalities=("s1_before", "s1_after", "s2_before", "s2_after"),
    class_names=("dry", "flood"),
)
