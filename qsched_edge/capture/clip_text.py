"""CLIPTextModel and CLIPTextModelWithProjection: input_ids -> hidden states and the pooled output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Captured, Port, capture

if TYPE_CHECKING:
    import torch

OUTPUTS = {
    "CLIPTextModel": ("last_hidden_state", "pooler_output"),
    "CLIPTextModelWithProjection": ("text_embeds", "last_hidden_state"),
}


def capture_clip_text(config: dict[str, Any], sequence_length: int, hidden_states: bool = False) -> Captured:
    """Input: input_ids int64 [B, L]. Outputs, in the order of the stock class: last_hidden_state float32 [B, L, D] and
    pooler_output [B, D], or with projection text_embeds [B, P] and last_hidden_state; on request hidden_states.0 ...
    [B, L, D], the inputs of all layers."""
    layers = config["num_hidden_layers"] if hidden_states else 0
    first, second = OUTPUTS[config["_class_name"]]
    outputs = [first, second, *(f"hidden_states.{i}" for i in range(layers))]
    inputs = [Port("input_ids", (BATCH, sequence_length), "int64")]
    return capture(lambda: wrapped(config, (first, second), layers), inputs, outputs)


def wrapped(config: dict[str, Any], outputs: tuple[str, str], layers: int) -> torch.nn.Module:
    import torch
    import transformers

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network = getattr(transformers, config["_class_name"])
            self.network = network(transformers.CLIPTextConfig.from_dict(config))

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            positions = torch.arange(input_ids.shape[1])[None]  # the model's own are a buffer no checkpoint holds
            encoded = self.network(input_ids, position_ids=positions, output_hidden_states=layers > 0)
            return (*(encoded[name] for name in outputs), *(encoded.hidden_states or ())[:layers])

    return TextEncoder()
