"""LightningModules: what is trained and measured on the batches of the data module."""

from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.classification import ClassificationTask
from lightning_mm.tasks.embedding_prediction.task import EmbeddingPredictionTask
from lightning_mm.tasks.emotions.task import EmotionTask
from lightning_mm.tasks.question_answering import VisualQuestionAnsweringTask
from lightning_mm.tasks.retrieval.task import RetrievalTask
from lightning_mm.tasks.schedules import WarmupPolynomial
from lightning_mm.tasks.segmentation import SemanticSegmentationTask
from lightning_mm.tasks.sentiment import SentimentTask
from lightning_mm.tasks.single_branch.task import SingleBranchTask
from lightning_mm.tasks.teacher.distillation import Distillation
from lightning_mm.tasks.universal.task import UniversalTask

__all__ = [
    "BaseTask", "ClassificationTask", "Distillation", "EmbeddingPredictionTask", "EmotionTask", "RetrievalTask",
    "SemanticSegmentationTask", "SentimentTask", "SingleBranchTask", "UniversalTask",
    "VisualQuestionAnsweringTask", "WarmupPolynomial",
]  # fmt: skip
