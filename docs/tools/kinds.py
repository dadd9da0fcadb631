"""What the pages of the adapter kinds say beyond docstrings and tables: when to use each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KindPage:
    """The page of one kind.

    Args:
        names: Its classes in :mod:`lightning_mm.adapters`; the first names the page.
        call: How it is written in Python.
        layers: Which layers it changes.
        folds: Whether one combination can be written into the weights.
        when: When to use it, and when not.
        methods: Its method in the studies of kinds.
    """

    names: tuple[str, ...]
    call: str
    layers: str
    folds: str
    when: str
    methods: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return self.names[0].lower()


KINDS = (
    KindPage(
        names=("SSF", "ScaleOnly", "ShiftOnly"),
        call="SSF()",
        layers="linear, convolution, norm, attention",
        folds="yes, no shift into RMSNorm",
        when="Start here. It is the kind of arXiv 2310.03986, works on every network that has linear, convolution or "
        "norm layers, and costs about one percent of the network per combination or less. `ScaleOnly` halves the "
        "parameters and comes close to it in our tables; `ShiftOnly` does not: features have to be reweighted, "
        "not only moved. Take something larger if validation shows that training loss stops well above that of "
        "dedicated networks.",
        methods=("adapted", "scale", "shift"),
    ),
    KindPage(
        names=("BitFit",),
        call="BitFit()",
        layers="linear, convolution, norm, attention, if they have a bias",
        folds="yes",
        when="The smallest change that can be stored, for networks whose layers have biases. It can only move "
        "features, so it stays behind SSF. Use it where parameters are all that counts, or to compare with "
        "published figures.",
        methods=("bitfit",),
    ),
    KindPage(
        names=("NormTuning",),
        call="NormTuning()",
        layers="norm",
        folds="yes",
        when="For networks with many norm layers (transformers, ResNets): a part of the parameters of SSF, and close "
        "to it in our tables. It needs norm layers with a weight and a bias; without any, nothing can be adapted "
        "and you get an error.",
        methods=("norm",),
    ),
    KindPage(
        names=("LoRA",),
        call="LoRA(rank=4)",
        layers="linear, convolution; embedding if named",
        folds="yes",
        when="The strongest kind in our tables, at several times the parameters. Use it where the gap to dedicated "
        "networks matters more than a budget of one percent, with a low rank on few layers first: `layers=[...]`, "
        "or `placement` with a budget. `shared=True` has one change for all incomplete combinations, at a half or a "
        "third of the parameters, and goes well with the rows of a cheaper kind: "
        "`Together([SSF(), LoRA(rank=1, shared=True)])`.",
        methods=("lora",),
    ),
    KindPage(
        names=("IA3",),
        call='IA3(outputs=["key", "value"], inputs=[])',
        layers="linear",
        folds="yes",
        when="For transformers, whose keys, values and inner activations it scales: very few parameters. Its default "
        "names are those of common networks; give `outputs` and `inputs` for others. Networks without attention "
        "have nothing for it to scale.",
    ),
    KindPage(
        names=("Bottleneck",),
        call="Bottleneck(width=2)",
        layers="linear, convolution, attention",
        folds="no",
        when="A small network after each layer, which is not linear and therefore cannot be folded: every prediction "
        "pays for it. Use it where LoRA at the same size is not enough, and export is not planned.",
        methods=("bottleneck",),
    ),
    KindPage(
        names=("PromptTokens",),
        call='PromptTokens(length=4, layers=["block"])',
        layers="transformer blocks",
        folds="no",
        when="For transformers, and to compare with papers on prompts for missing modalities (Lee et al., CVPR 2023). "
        "The one kind that is not the plain base when training starts, as its tokens are random. Longer inputs "
        "cost time in every prediction.",
    ),
    KindPage(
        names=("PredictedFeatures",),
        call="PredictedFeatures(rank=4)",
        layers="encoders of two or more modalities",
        folds="stays next to the weights",
        when="For networks with an encoder per modality, if what a missing modality would have said can be told from "
        "the others, and for combinations that are not seen in training: its predictors belong to pairs of "
        "modalities, not to combinations, which share them. Not for networks that mask absent features themselves.",
    ),
    KindPage(
        names=("Together",),
        call="Together([SSF(), LoRA(rank=4)])",
        layers="those of its kinds",
        folds="if all do",
        when="Several kinds on one network, such as SSF everywhere and low-rank changes of a few layers. SSF next to "
        "LoRA on the same layers adds little in our tables; a different kind for other layers is what it is for.",
        methods=("ssf_lora",),
    ),
)
