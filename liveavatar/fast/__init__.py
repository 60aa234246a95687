"""The transformer and the decoder for one GPU: fused, quantised, with static shapes, replayed as CUDA graphs.

The model files stay plain; this package holds the same arithmetic in the order and the layout a GPU likes.
`accelerate` takes the weights out of a `CausalDiT` and gives a `FastDiT` with the same methods.
Owns kernels, their reference in torch, quantised rings and weights. Does not know processes (`distributed`) or files.
"""

from liveavatar.fast.dit import FastDiT, accelerate

__all__ = ["FastDiT", "accelerate"]
