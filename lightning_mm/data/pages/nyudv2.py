"""The page of NYUDv2."""

from lightning_mm.data.about import About

NYUDV2 = About(
    name="nyudv2",
    data_set="NYUDv2",
    title="NYU Depth v2: indoor scenes, RGB and depth (HHA), 40 classes, 480 x 640",
    source="cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html; with HHA and 40 classes as prepared for RGB-D "
    "networks, such as github.com/jamycheung/DELIVER",
    licence="none found; ask the authors before passing it on",
    reference="Silberman et al., ECCV 2012; HHA: Gupta et al., ECCV 2014, arXiv 1407.5736",
    tree="""nyudv2/
  train.txt  test.txt    one name a line
  RGB/NAME.jpg           8-bit RGB
  HHA/NAME.jpg           8-bit, three channels made of depth
  Label/NAME.png         8-bit: 1 to 40, and 0 or 255 where there is none""",
    counts={"train": 795, "test": 654},
    recalled=True,
    notes="""\
There is no list for val: a keyed part of train.txt (val_fraction, 0.1) becomes val here, and train is the rest.
Split trap: the public CMNeXt recipe chooses the best epoch on test.txt and reports it there. Ours never does.
The published 56.9 of CMNeXt is of multi-scale evaluation.""",
    modalities=("rgb", "hha"),
    class_names=(
        *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
        *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor_mat", "clothes"),
        *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower_curtain", "box", "whiteboard"),
        *("person", "night_stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture"),
        "otherprop",
    ),
)
