"""CLIPTextModel: input_ids -> last_hidden_state, pooler_output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def capture_clip_text(config: dict[str, Any], sequence_length: int) -> Captured:
    """Input: input_ids int64 [B, L]. Outputs: last_hidden_state float32 [B, L, D], pooler_output float32 [B, D]."""
    inputs = [Port("input_ids", (BATCH, sequence_length), "int64")]
    return capture(lambda: wrapped(config), inputs, ["last_hidden_state", "pooler_output"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = CLIPTextModel(CLIPTextConfig.from_dict(config))

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            positions = torch.arange(input_ids.shape[1])[None]  # the model's own are a buffer no checkpoint holds
            encoded = self.network(input_ids, position_ids=positions)
            return encoded.last_hidden_state, encoded.pooler_output

    return TextEncoder()
