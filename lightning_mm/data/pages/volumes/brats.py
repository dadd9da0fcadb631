"""The page of BraTS."""

from lightning_mm.data.about import About

BRATS = About(
    name="brats",
    data_set="BraTS",
    title="BraTS: brain tumours in four MRI sequences (FLAIR, T1 with contrast agent, T1, T2), volumes, 4 classes",
    source="med.upenn.edu/cbica/brats (2018 to 2021) and synapse.org (2021 and later), after registration",
    licence="terms of each year's challenge: research, with citation; see the page where you registered",
    reference="Menze et al., IEEE TMI 2015; Bakas et al., arXiv 1811.02629; Baid et al., arXiv 2107.02314",
    tree="""\
train.txt  val.txt  test.txt  (names of patients, one a line; optional)
[HGG/ or LGG/]<patient>/<patient>_<flair|t1ce|t1|t2|seg>.nii.gz  (2018 to 2021)
<patient>/<patient>-<t2f|t1c|t1n|t2w|seg>.nii.gz  (2023 and later)""",
    notes="""\
Labels in the files: 1 necrotic core, 2 oedema, 4 (2023 and later: 3) enhancing tumour. Published figures are Dice of
the whole tumour (1+2+4), its core (1+4) and the enhancing part (4), means over patients; an enhancing prediction of
fewer than 500 voxels is often removed. Name the year, the split and whether you removed: the official validation
patients have no public labels and are another split than those cut from the training patients. Published splits
[recalled]: 199/29/57 (2018), 219/50/100 (2020). In the 2020 data the labels of patient 355 have another name
[recalled], W39_1998.09.19_Segm.nii: rename them to BraTS20_Training_355_seg.nii. Tables of what exists in training:
lightning_mm.missing.CsvTable.""",
    modalities=("flair", "t1ce", "t1", "t2"),
    class_names=("background", "necrotic", "oedema", "enhancing"),
)
