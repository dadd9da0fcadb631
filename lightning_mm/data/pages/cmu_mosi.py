"""The pages of CmuMosi, CmuMosei and Iemocap, whose files have one form."""

from lightning_mm.data.about import About

_SDK = (
    "CMU Multimodal SDK (github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK); features as files: links in the pages of "
    "github.com/yaohungt/Multimodal-Transformer (layout mult) and github.com/thuiar/MMSA (layout mmsa)"
)

_NOTES = (
    "The two layouts hold other features (words as GloVe, 300, or BERT, 768) and their figures do not compare. "
    "Accuracy and F1 of the sign have two conventions, has0 and non0: name yours. Published F1 of the code of MulT "
    "weights classes by how often they are predicted. Features that are all zero are not counted as missing."
)

CMU_MOSI = About(
    name="cmu_mosi",
    data_set="CmuMosi",
    title="CMU-MOSI: sentiment in [-3, 3] of spoken opinions on films; text, audio and vision",
    source=_SDK,
    licence="none was found for the features; the videos are those of their authors on YouTube",
    reference="Zadeh et al.: MOSI: Multimodal corpus of sentiment intensity, arXiv 1606.06259",
    tree="mosi_data.pkl or mosi_data_noalign.pkl (layout mult)\naligned_50.pkl or unaligned_50.pkl (layout mmsa)",
    counts={"train": 1284, "val": 229, "test": 686},
    notes=_NOTES,
    recalled=True,
    modalities=("text", "audio", "vision"),
)

CMU_MOSEI = About(
    name="cmu_mosei",
    data_set="CmuMosei",
    title="CMU-MOSEI: sentiment in [-3, 3] of spoken opinions on anything; text, audio and vision",
    source=_SDK,
    licence="none was found for the features; the videos are those of their authors on YouTube",
    reference="Zadeh et al.: Multimodal language analysis in the wild: CMU-MOSEI dataset, ACL 2018",
    tree="mosei_senti_data.pkl or mosei_senti_data_noalign.pkl (layout mult)\n"
    "aligned_50.pkl or unaligned_50.pkl (layout mmsa)",
    counts={"train": 16326, "val": 1871, "test": 4659},
    notes=_NOTES,
    recalled=True,
    modalities=("text", "audio", "vision"),
)

IEMOCAP = About(
    name="iemocap",
    data_set="Iemocap",
    title="IEMOCAP: four emotions of actors in conversation, each there or not; text, audio and vision",
    source="sail.usc.edu/iemocap, on request; features as files: links in the page of "
    "github.com/yaohungt/Multimodal-Transformer",
    licence="research, by agreement with the University of Southern California; none was found for the features",
    reference="Busso et al.: IEMOCAP: Interactive emotional dyadic motion capture database, LREV 42, 2008",
    tree="iemocap_data.pkl or iemocap_data_noalign.pkl",
    counts={"train": 2717, "val": 798, "test": 938},
    notes="Accuracy and F1 are those of one emotion against the rest, four of each; F1 is weighted by how often it is "
    "there, so that a network that always says no has a high one. Name the emotion.",
    recalled=True,
    modalities=("text", "audio", "vision"),
    class_names=("neutral", "happy", "sad", "angry"),
)
