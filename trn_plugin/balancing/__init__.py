"""Gradients of several losses, balanced by rules of other libraries."""

from trn_plugin.balancing.jacobian import JacobianOptimWrapper

__all__ = ["JacobianOptimWrapper"]
