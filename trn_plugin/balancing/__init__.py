"""Balance the gradients of several losses by methods of other libraries."""

from trn_plugin.balancing.jacobian import JacobianOptimWrapper

__all__ = ["JacobianOptimWrapper"]
