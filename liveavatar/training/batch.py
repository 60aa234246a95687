"""Training batch of the transformer: windows of consecutive blocks with their conditions.

Shapes: B batch, b blocks, C latent channels, T = 3 b latents, h/w latent cells, L speech states.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from liveavatar.pose.track import free_head


@dataclass(slots=True)
class Window:
    """Batch of windows of consecutive blocks, ready for `CausalDiT.forward_window`."""

    latents: Tensor  # [B, C, T, h, w]
    reference: Tensor  # [B, C, 1, h, w]
    weights: Tensor  # [B, 1, T, h, w], mean 1
    features: Tensor  # [B, L, C, history + 12 b]
    tokens: Tensor  # [B, text length], or rows [B, L, C] of a text encoder that is not trained
    pose: Tensor | None = None  # pose latents [B, 7, T, h, w]; None is all zeros: free head motion
    bound: Tensor | None = None  # bool [B]: the reference shows other light or another place, so the prompt is needed

    def with_free_head(self) -> "Window":
        """Copy the window with free head motion, as in most renders."""
        return self if self.pose is None else replace(self, pose=free_head(self.pose))
