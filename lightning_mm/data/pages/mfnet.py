"""The page of MFNet."""

from lightning_mm.data.about import About

MFNET = About(
    name="mfnet",
    data_set="MFNet",
    title="MFNet: street scenes, RGB and thermal, 9 classes with unlabeled, 480 x 640",
    source="www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral (the authors; four channels in one file); "
    "with rgb/ and ther/ as prepared for RGB-T networks, such as github.com/jamycheung/DELIVER",
    licence="none found; ask the authors before passing it on",
    reference="Ha et al.: MFNet, IROS 2017",
    tree="""mfnet/
  train.txt  val.txt (where there is one)  test.txt    one name a line
  labels/NAME.png                                      8-bit, 0 to 8
and either
  rgb/NAME.jpg                                         8-bit RGB
  ther/NAME.jpg                                        8-bit gray (or RGB, three times the same)
or, as first released,
  images/NAME.png                                      8-bit, four channels: RGB and thermal""",
    counts={"train": 784, "val": 392, "test": 393},
    recalled=True,
    notes="""\
Split trap: the public CMNeXt recipe chooses the best epoch on the list that it reports; users report 59.9 on val and
50 to 52 on test for the same weights. Here epochs are chosen on val, and test is reported: lower figures than the
published ones are to be expected.
Without val.txt a keyed part of train.txt (val_fraction, 0.1) becomes val. Frames of one drive may lie in both, so that
such a val is optimistic.
All 9 classes count in the mIoU, the first (unlabeled) too.""",
    modalities=("rgb", "thermal"),
    class_names=("unlabeled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump"),
)
