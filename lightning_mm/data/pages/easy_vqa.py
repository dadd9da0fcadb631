"""The page of EasyVqa."""

from lightning_mm.data.about import About

EASY_VQA = About(
    name="easy_vqa",
    data_set="EasyVqa",
    title="EasyVqa: questions about pictures of one shape, 13 answers",
    source="the Python package easy-vqa 1.0 (folder easy_vqa/data of its wheel), unchanged",
    licence="MIT",
    reference="V. Zhou: easy-VQA, github.com/vzhou842/easy-VQA, 2019",
    tree="""\
easy_vqa/
  answers.txt                        one answer a line
  train/questions.json               [question, answer, number of the image]
  train/images/<number>.png          64 x 64 pixels, RGB
  test/questions.json
  test/images/<number>.png""",
    counts={"train": 34784, "val": 3791, "test": 9673},
    notes="""\
Images of the training part are kept for validation by a hash of their number (argument val_fraction), with all of
their questions. `max_questions` takes some questions of a split, spread over all images.
Three of four answers are yes or no: guessing yes is right for 37 %, the question alone for about 67 %.""",
    modalities=("image", "question"),
    class_names=(
        *("circle", "green", "red", "gray", "yes", "teal", "black", "rectangle", "yellow", "triangle", "brown"),
        *("blue", "no"),
    ),
)
