"""Task similarity and the task relation layer in plain PyTorch (Section 3 of the paper).

Source: Li et al., "Task Relation Networks", WACV 2019, doi:10.1109/WACV.2019.00104.
"""

from trn_plugin.relation.chance import chance_similarity, corrected_similarity
from trn_plugin.relation.layer import TaskRelationLayer, measure_together
from trn_plugin.relation.loss import task_similarity_loss
from trn_plugin.relation.similarities import SIMILARITIES, Similarity
from trn_plugin.relation.similarity import task_similarity, task_similarity_matrix

__all__ = [
    "SIMILARITIES",
    "Similarity",
    "TaskRelationLayer",
    "chance_similarity",
    "corrected_similarity",
    "measure_together",
    "task_similarity",
    "task_similarity_loss",
    "task_similarity_matrix",
]
