"""The page of MCubeS."""

from lightning_mm.data.about import About

MCUBES = About(
    name="mcubes",
    data_set="MCubeS",
    title="MCubeS: materials in street scenes, RGB, polarisation (AoLP, DoLP) and near infrared, 20 classes",
    source="github.com/kyotovision-public/multimodal-material-segmentation (the authors): multimodal_dataset",
    licence="none found; ask the authors before passing it on",
    reference="Liang et al.: Multimodal Material Segmentation, CVPR 2022",
    tree="""mcubes/
  list_folder/{train,val,test}.txt                      one name a line
  polL_color/NAME.png                                   8- or 16-bit RGB
  polL_aolp_sin/NAME.npy  polL_aolp_cos/NAME.npy        floats [1024, 1224]
  polL_dolp/NAME.npy                                    floats [1024, 1224]
  NIR_warped/NAME.png                                   8- or 16-bit gray
  GT/NAME.png                                           8-bit: 0 to 19, and 255 where there is none
(NIR_warped_mask/, SS/ and SSGT4MS/ are not read)""",
    counts={"train": 302, "val": 96, "test": 102},
    recalled=True,
    notes="""\
Split trap: the public CMNeXt recipe chooses the best epoch on test.txt, reports it there, and does not use val.txt.
Here epochs are chosen on val, and test is reported.
Published figures are on the centre of 1024 x 1024 (eval_crop) after the left 192 columns are dropped.
DoLP is about -0.53 to 1.45, the sine of AoLP -2.66 to 2.40 and the cosine -0.57 to 1.64: they are not clipped.""",
    modalities=("image", "aolp", "dolp", "nir"),
    class_names=(
        *("asphalt", "concrete", "metal", "road_marking", "fabric", "glass", "plaster", "plastic", "rubber", "sand"),
        *("gravel", "ceramic", "cobblestone", "brick", "grass", "wood", "leaf", "water", "human", "sky"),
    ),
)
