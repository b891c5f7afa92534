"""Qwen3's decoder as a text encoder: input_ids -> the hidden states that a transformer of pictures reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Captured, Port, capture
from qsched_edge.errors import CaptureError

if TYPE_CHECKING:
    import torch


def capture_qwen3(config: dict[str, Any], sequence_length: int, layers: Sequence[int]) -> Captured:
    """Inputs: input_ids int64 [B, L] and attention_mask int64 [B, L], 1 for tokens and 0 for what pads them on the
    right. Outputs: hidden_states.K float32 [B, L, D] for each of `layers`: what K layers have made, before the last
    norm. Layers beyond are no part of the graph."""
    if layers[-1] >= config["num_hidden_layers"]:
        raise CaptureError(f"a text encoder of {config['num_hidden_layers']} layers has no state {layers[-1]} to read")
    inputs = [Port(name, (BATCH, sequence_length), "int64") for name in ("input_ids", "attention_mask")]
    return capture(lambda: wrapped(config, layers), inputs, [f"hidden_states.{layer}" for layer in layers])


def wrapped(config: dict[str, Any], layers: Sequence[int]) -> torch.nn.Module:
    import torch
    from transformers import Qwen3Config, Qwen3Model

    kinds = config.get("layer_types")
    shorter = {"num_hidden_layers": layers[-1], "layer_types": kinds and kinds[: layers[-1]], "dtype": "float32"}
    settings: Any = Qwen3Config.from_dict({**config, **shorter})
    if settings.rope_parameters["rope_type"] != "default" or set(settings.layer_types) != {"full_attention"}:
        raise CaptureError("Qwen3 with stretched positions or a sliding window is not supported")

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network: Any = Qwen3Model(settings)
            network.norm = torch.nn.Identity()  # behind the last state that is read
            self.network = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            states, at, found = self.network.embed_tokens(input_ids), torch.arange(input_ids.shape[1]), []
            mask = (at[None, :] <= at[:, None])[None, None] & (attention_mask > 0)[:, None, None, :]
            for i, layer in enumerate(self.network.layers):
                states = layer(states, attention_mask=mask, position_embeddings=rotations(settings, at))
                if i + 1 in layers:
                    found.append(states)
            return tuple(found)

    return TextEncoder()


def rotations(config: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [1, L, head_dim] of rotary positions; the model's own rates are a buffer that no checkpoint holds."""
    import torch

    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = positions[:, None].float() / config.rope_parameters["rope_theta"] ** exponents
    both = torch.cat([angles, angles], dim=-1)[None]
    return both.cos(), both.sin()
