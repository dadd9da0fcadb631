"""The page of NtuRgbd."""

from lightning_mm.data.about import About

NTU_RGBD = About(
    name="ntu_rgbd",
    data_set="NtuRgbd",
    title="NTU RGB+D 60: 60 actions, colour and depth videos, 56,880 recordings of 40 people",
    source="https://rose1.ntu.edu.sg/dataset/actionRecognition, on request",
    licence="for academic research on request, not to be passed on",
    reference="Shahroudy, Liu, Ng, Wang: NTU RGB+D, CVPR 2016",
    tree=(
        "ntu_rgbd/\n"
        "  dataset_splits/@CS/train.txt   lines: S001C001P001R001A001_rgb 103 0\n"
        "  dataset_splits/@CS/valid.txt\n"
        "  dataset_splits/@CV/train.txt\n"
        "  dataset_splits/@CV/valid.txt\n"
        "  ImagesResize/S001C001P001R001A001_rgb/000001.jpg\n"
        "  nturgb+d_depth_masked/S001C001P001R001A001/MDepth-00000001.png   16-bit millimetres"
    ),
    counts={"test": 16560},
    notes=(
        "The count is that of CS, whose train.txt lists 40,320; with CV train.txt lists 37,920, valid.txt 18,960. "
        "The official lists are train and valid only, and public recipes choose the epoch on valid, the list that "
        "they report. Ours: test is valid.txt; val are whole subjects of train.txt, chosen by a hash of their "
        "number, and not trained on. With CV these subjects are in test too. Recordings of 16 frames or fewer are "
        "left out. The public loader of UMDR resizes to 320 x 240 before it cuts (so do we), turns depth into 8 "
        "bits by 255 * x modulo 256 (depth_levels: wrapped), cuts depth around the person (we do not), and leaves "
        "JET in the order blue, green, red (ours is red, green, blue): weights trained there expect other colours."
    ),
    modalities=("rgb", "depth"),
)
