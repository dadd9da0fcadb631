"""The page of Food101."""

from lightning_mm.data.about import About

FOOD101 = About(
    name="food101",
    data_set="Food101",
    title="UPMC Food-101: photos of dishes and the titles of their web pages, 101 classes",
    source="visiir.isir.upmc.fr (images, titles); the lists are made by the code of arXiv 2303.03369; vocab.txt is "
    "that of BERT base uncased",
    licence="none found; for research, as the photos are of the web",
    reference="Wang et al., Recipe recognition with large multimodal food dataset, ICME Workshops 2015",
    tree="\n".join(
        [
            "images/{train,test}/<class>/<class>_<number>.jpg",
            "texts/{train,test}_titles.csv   (not read)",
            "class_idx.json                  class to number",
            "text.json                       file to its text, or a list of texts",
            "split.json                      train, val, test: lists of files",
            "vocab.txt                       one token a line",
        ]
    ),
    counts={"train": 61_142, "val": 6_846, "test": 22_716},
    notes="The counts are of split.json, samples without a text among them, which are left out. Images of the "
    "validation split lie under images/train.",
    modalities=("image", "text"),
)
