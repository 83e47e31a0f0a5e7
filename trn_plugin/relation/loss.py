"""Eq. 14: the task similarity loss."""

from torch import Tensor

__all__ = ["task_similarity_loss"]


def task_similarity_loss(tau: Tensor, tau_label: Tensor) -> Tensor:
    r"""Distance between the similarity of two tasks' features and that of their labels (Eq. 14).

    .. math:: \mathcal{L}_{ts} = |\tau(F_1, F_2) - \tau(Y_1, Y_2)|

    Both have the same shape, any; no gradient flows to ``tau_label``.
    """
    return (tau - tau_label.detach()).abs()
