"""T5EncoderModel: input_ids -> last_hidden_state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def capture_t5(config: dict[str, Any], sequence_length: int) -> Captured:
    """Input: input_ids int64 [B, L], padded, no mask, as FLUX does. Output: last_hidden_state float32 [B, L, D]."""
    inputs = [Port("input_ids", (BATCH, sequence_length), "int64")]
    return capture(lambda: wrapped(config), inputs, ["last_hidden_state"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from transformers import T5Config, T5EncoderModel

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = T5EncoderModel(T5Config.from_dict(config))

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids).last_hidden_state

    return TextEncoder()
