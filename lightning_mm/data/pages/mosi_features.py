"""The page of MosiFeatures."""

from lightning_mm.data.about import About

MOSI_FEATURES = About(
    name="mosi_bclstm",
    data_set="MosiFeatures",
    title="MosiFeatures: CMU-MOSI as features of utterances, text, audio and video, 2 classes",
    source="github.com/declare-lab/multimodal-deep-learning, bc-LSTM/data, packed into one file",
    licence="repository MIT; no licence found for CMU-MOSI itself, usually treated as for research with citation",
    reference="Zadeh et al.: MOSI, arXiv 1606.06259; features: Poria et al., ACL 2017",
    tree="mosi_bclstm/\n  mosi_utterance_features.npz",
    counts={"train": 1447, "test": 752},
    notes="""\
A smoke set, no benchmark: features of text and video come from networks trained on the training labels, so that figures
on train and val are far better than on test.
Val is a part of the 1447 training utterances, split by video, and train is the rest.""",
    modalities=("text", "audio", "video"),
    class_names=("negative", "positive"),
)
