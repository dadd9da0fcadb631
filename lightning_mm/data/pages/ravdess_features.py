"""The page of RavdessFeatures."""

from lightning_mm.data.about import About

RAVDESS_FEATURES = About(
    name="ravdess_features",
    data_set="RavdessFeatures",
    title="RavdessFeatures: emotion from voice and face, statistics of RAVDESS speech clips, 8 classes",
    source="github.com/neselidondurma/DMMH_workshop, "
    "2_hands-on_files/session2_analysis/ravdess_processed_data/{audio,video}_summary.csv, unchanged",
    licence="RAVDESS CC BY-NC-SA 4.0; the repository of the features states none",
    reference="Livingstone & Russo: The Ryerson audio-visual database of emotional speech and song, PLoS ONE, 2018",
    tree="""\
ravdess_features/
  audio_summary.csv                  69 acoustic statistics of every clip
  video_summary.csv                  56 statistics of facial action units""",
    counts={"train": 210, "val": 60, "test": 90},
    notes="""\
Splits are by actor, since clips of one actor resemble each other: by default actors 19 to 24 for test, 15 to 18 for
validation, the other 14 for training (arguments test_actors, val_actors); the counts are of this split.
538 numbers of audio are NaN in 268 of the 360 clips, nearly all of cpp_mean and cpp_var. They take the mean of the
training clips (argument missing: mean), or audio counts as absent in such clips (missing: absent).""",
    modalities=("audio", "video"),
    class_names=("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
)
