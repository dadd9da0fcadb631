"""The page of MsLesions."""

from lightning_mm.data.about import About

MS_LESIONS = About(
    name="ms_lesions",
    data_set="MsLesions",
    title="MsLesions: lesions of multiple sclerosis, FLAIR, T1, T1 after contrast agent and T2, 2 classes",
    source="github.com/muschellij2/open_ms_data, cross_sectional/MNI/patient{07,19,26}, slices with lesion packed",
    licence="CC BY",
    reference="Lesjak et al., Neuroinformatics 2017, doi 10.1007/s12021-017-9348-7",
    tree="ms_lesions/\n  patient07_lesion_slices.npz  patient19_lesion_slices.npz  patient26_lesion_slices.npz",
    counts={"train": 87, "val": 74, "test": 54},
    notes="""\
Three patients are a small test, so give every patient its turn. The counts are slices of patient 19, 07 and 26.
Only slices with lesion are there: figures say nothing about false alarms in others.""",
    modalities=("flair", "t1", "t1_post", "t2"),
    class_names=("background", "lesion"),
)
