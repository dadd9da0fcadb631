"""The page of UtdMhad."""

from lightning_mm.data.about import About

UTD_MHAD = About(
    name="utd_mhad",
    data_set="UtdMhad",
    title="UTD-MHAD: actions of eight people, skeleton, accelerometer and gyroscope, 27 classes",
    source="github.com/woo-chia-wei/kinect-sequence-classification, data/Inertial and data/Skeleton, packed into "
    "one file",
    licence="no open licence; released for research with citation",
    reference="Chen, Jafari, Kehtarnavaz: UTD-MHAD, ICIP 2015",
    tree="utd_mhad/\n  utd_mhad_inertial_skeleton.npz",
    counts={"train": 431, "test": 430},
    notes="""\
Test is the even subjects. Val is a part of the 431 training sequences, subject 7 or trial 4 (argument val), and train
is the rest.""",
    modalities=("skeleton", "accelerometer", "gyroscope"),
    class_names=(
        *("swipe_left", "swipe_right", "wave", "clap", "throw", "arm_cross", "basketball_shoot", "draw_x"),
        *("draw_circle_cw", "draw_circle_ccw", "draw_triangle", "bowling", "boxing", "baseball_swing", "tennis_swing"),
        *("arm_curl", "tennis_serve", "push", "knock", "catch", "pickup_throw", "jog", "walk", "sit2stand"),
        *("stand2sit", "lunge", "squat"),
    ),
)

UTD_MHAD_SENTENCES = (
    "right arm swipe to the left",
    "right arm swipe to the right",
    "right hand wave",
    "two hand front clap",
    "right arm throw",
    "cross arms in the chest",
    "basketball shoot",
    "right hand draw x",
    "right hand draw circle clockwise",
    "right hand draw circle counter clockwise",
    "draw triangle",
    "bowling right hand",
    "front boxing",
    "baseball swing from right",
    "tennis right hand forehand swing",
    "arm curl two arms",
    "tennis serve",
    "two hand push",
    "right hand knock on door",
    "right hand catch an object",
    "right hand pick up and throw",
    "jogging in place",
    "walking in place",
    "sit to stand",
    "stand to sit",
    "forward lunge left foot forward",
    "squat two arms stretch out",
)
"""The sentence of each action, in the order of the classes; those of the authors as recalled, without brackets."""
