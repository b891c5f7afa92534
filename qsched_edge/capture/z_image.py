"""ZImageTransformer2DModel: latents and one prompt's text states -> velocity, whatever the lengths of the prompts.

The stock model takes lists, cuts off what pads each prompt and fills it up to a multiple of 32 with a learned token.
The graph has a fixed length instead, and an attention mask that leaves out what the stock model does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch

PATCH, FRAMES = 2, 1  # what ZImagePipeline asks the transformer for


def capture_z_image(config: dict[str, Any], sequence_length: int) -> Captured:
    """Inputs: hidden_states float32 [B, C, h, w], encoder_hidden_states [B, L, D], attention_mask int64 [B, L], 1 for
    the prompt's tokens, timestep [B] in 0..1000. Output: out_sample [B, C, h, w], the velocity as schedulers have it.
    """
    latents = Axis("height", 4, PATCH), Axis("width", 6, PATCH)
    inputs = [
        Port("hidden_states", (BATCH, config["in_channels"], *latents)),
        Port("encoder_hidden_states", (BATCH, sequence_length, config["cap_feat_dim"])),
        Port("attention_mask", (BATCH, sequence_length), "int64"),
        Port("timestep", (BATCH,)),
    ]
    return capture(lambda: wrapped(config), inputs, ["out_sample"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import ZImageTransformer2DModel

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = ZImageTransformer2DModel.from_config(config)
            for block in (*self.network.noise_refiner, *self.network.context_refiner, *self.network.layers):
                block.attention.set_processor(RealAttention())

        def forward(
            self,
            hidden_states: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            attention_mask: torch.Tensor,
            timestep: torch.Tensor,
        ) -> torch.Tensor:
            network = self.network
            given, length = network.t_embedder((1 - timestep / 1000) * network.t_scale), attention_mask.sum(dim=1)
            image = image_tokens(network, hidden_states, filled_up(length), given)
            text = text_tokens(network, encoder_hidden_states, length)
            both = torch.cat([image.states, text.states], dim=1)
            seen = bias_of(torch.cat([image.seen, text.seen], dim=1))
            turn = torch.cat([image.turn, text.turn], dim=2)
            for block in network.layers:
                both = block(both, seen, turn, given)
            return -picture_of(network, both, given, hidden_states.shape)

    return Denoiser()


class Tokens(NamedTuple):
    """`states` float32 [B, S, D]; `seen` bool [B, S]: which of them the stock model has; `turn`: their `rotation`."""

    states: torch.Tensor
    seen: torch.Tensor
    turn: torch.Tensor


def filled_up(length: torch.Tensor) -> torch.Tensor:
    """The next multiple of SEQ_MULTI_OF."""
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    return length + (-length) % SEQ_MULTI_OF


def image_tokens(network: Any, latents: torch.Tensor, room: torch.Tensor, given: torch.Tensor) -> Tokens:
    """The refined patches of latents [B, C, h, w], behind `room` [B] places of text, and what fills them up."""
    import torch
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    b, c, h, w = latents.shape
    rows, columns, most = h // PATCH, w // PATCH, SEQ_MULTI_OF - 1
    patches = latents.reshape(b, c, rows, PATCH, columns, PATCH).permute(0, 2, 4, 3, 5, 1)
    x = network.all_x_embedder[f"{PATCH}-{FRAMES}"](patches.reshape(b, rows * columns, PATCH * PATCH * c))
    x = torch.cat([x, network.x_pad_token.expand(b, most, -1)], dim=1)
    none = torch.zeros(most, dtype=torch.int64)
    row = torch.cat([torch.arange(rows)[:, None].expand(rows, columns).reshape(-1), none])
    column = torch.cat([torch.arange(columns)[None].expand(rows, columns).reshape(-1), none])
    patch = torch.cat([torch.ones(rows * columns, dtype=torch.int64), none])
    seen = (torch.arange(x.shape[1]) < filled_up(patch.sum()))[None].expand(b, -1)
    turn = rotation(network.config, [(room[:, None] + 1) * patch, row.expand(b, -1), column.expand(b, -1)])
    bias = bias_of(seen)
    for block in network.noise_refiner:
        x = block(x, bias, turn, given)
    return Tokens(x, seen, turn)


def text_tokens(network: Any, states: torch.Tensor, length: torch.Tensor) -> Tokens:
    """The refined states [B, L, D] of prompts, of which the first `length` [B] are no padding."""
    import torch
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    states = torch.nn.functional.pad(states, (0, 0, 0, -states.shape[1] % SEQ_MULTI_OF))
    at = torch.arange(states.shape[1])[None].expand(states.shape[0], -1)
    x = torch.where((at < length[:, None])[..., None], network.cap_embedder(states), network.cap_pad_token)
    seen, turn = at < filled_up(length)[:, None], rotation(network.config, [at + 1, 0 * at, 0 * at])
    bias = bias_of(seen)
    for block in network.context_refiner:
        x = block(x, bias, turn)
    return Tokens(x, seen, turn)


def picture_of(network: Any, states: torch.Tensor, given: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The patches that come first among the states, as latents of `shape` [B, C, h, w]."""
    b, c, h, w = shape
    rows, columns = h // PATCH, w // PATCH
    found = network.all_final_layer[f"{PATCH}-{FRAMES}"](states[:, : rows * columns], c=given)
    out: torch.Tensor = found.reshape(b, rows, columns, PATCH, PATCH, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
    return out


def bias_of(seen: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, float32 [B, 1, S, S]: written out, as onnxruntime's one operator for attention reads
    it; `seen` bool [B, S]."""
    import torch

    bias = torch.where(seen, 0.0, -torch.inf)[:, None, None, :]
    return bias.expand(-1, 1, seen.shape[1], -1)


def rotation(config: Mapping[str, Any], positions: list[torch.Tensor]) -> torch.Tensor:
    """cos and sin of rotary positions along each axis, float32 [2, B, S, head_dim / 2]; `positions` int64 [B, S]."""
    import torch

    angles = []
    for width, at in zip(config["axes_dims"], positions, strict=True):
        rates = config["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append((at[..., None].double() * rates).float())
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()])


class RealAttention:
    """ZSingleStreamAttnProcessor with rotations in real numbers: ONNX has no complex ones."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        freqs_cis: torch.Tensor | None = None,
    ) -> torch.Tensor:
        import torch

        assert attention_mask is not None
        assert freqs_cis is not None
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            rotated(norm(heads) if norm is not None else heads, freqs_cis)
            for norm, heads in ((attn.norm_q, query), (attn.norm_k, key))
        )
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out: torch.Tensor = attn.to_out[0](found.transpose(1, 2).flatten(2))
        return out


def rotated(heads: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """[B, S, heads, D] whose pairs of neighbours are turned by `turn` [2, B, S, D / 2]."""
    import torch

    cos, sin = turn[0][:, :, None], turn[1][:, :, None]
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
