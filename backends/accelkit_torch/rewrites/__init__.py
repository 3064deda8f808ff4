"""Rewrites of a prepared graph into what torch does best, each a small pass of its own."""

from __future__ import annotations

from accelkit.graph import Graph
from accelkit.passes import eliminate_dead_code
from accelkit_torch.rewrites.attention import fuse_attention
from accelkit_torch.rewrites.common import drop_identities
from accelkit_torch.rewrites.convolutions import transform_convolutions
from accelkit_torch.rewrites.cross_entropy import (
    check_labels_in_cross_entropy,
    keep_log_probabilities,
)
from accelkit_torch.rewrites.dropout import mask_by_bits
from accelkit_torch.rewrites.pooling import keep_pooling_indices, pool_before_relu
from accelkit_torch.rewrites.products import (
    add_bias_in_convolution,
    add_bias_in_matmul,
    merge_convolution_gradients,
    rectify_in_matmul,
)
from accelkit_torch.rewrites.updates import (
    accumulate_into_momentum,
    fuse_updates,
    split_product_updates,
)

__all__ = ["rewrite_for_torch"]


def rewrite_for_torch(
    graph: Graph,
    donate: frozenset[int],
    *,
    use_pooling_indices: bool = True,
    in_host_memory: bool = True,
    workspaces: bool = True,
) -> Graph:
    """All rewrites, in order.

    Args:
        graph: A prepared graph.
        donate: Positions of the inputs that may be overwritten.
        use_pooling_indices: Whether gradients of max-pooling may use torch's own kernel.
        in_host_memory: Whether torch computes before it returns, on the host's processor.
        workspaces: Whether kernels may take memory of their own.
    """
    graph = drop_identities(graph)
    graph = split_product_updates(graph)
    graph = add_bias_in_convolution(graph)
    if in_host_memory and workspaces:
        graph = transform_convolutions(graph)
    graph = merge_convolution_gradients(graph)
    graph = pool_before_relu(graph)
    if use_pooling_indices:
        graph = keep_pooling_indices(graph)
    graph = keep_log_probabilities(graph)
    graph = add_bias_in_matmul(graph)
    if in_host_memory:
        graph = check_labels_in_cross_entropy(graph)
        graph = rectify_in_matmul(graph)
        graph = fuse_attention(graph)
    graph = mask_by_bits(graph)
    graph = accumulate_into_momentum(graph, donate)
    graph = fuse_updates(graph)
    return eliminate_dead_code(graph)
