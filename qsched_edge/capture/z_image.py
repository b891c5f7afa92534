"""ZImageTransformer2DModel: latents and one prompt's text states -> velocity, whatever the lengths of the prompts.

The stock model takes lists, cuts off what pads each prompt and fills it up to a multiple of 32 with a learned token.
The graph has a fixed length instead, and an attention mask that leaves out what the stock model does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    def filled_up(length: torch.Tensor) -> torch.Tensor:
        return length + (-length) % SEQ_MULTI_OF

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
            network, (b, c, h, w) = self.network, hidden_states.shape
            given = network.t_embedder((1 - timestep / 1000) * network.t_scale)
            rows, columns = h // PATCH, w // PATCH
            patches = hidden_states.reshape(b, c, rows, PATCH, columns, PATCH).permute(0, 2, 4, 3, 5, 1)
            x = network.all_x_embedder[f"{PATCH}-{FRAMES}"](patches.reshape(b, rows * columns, PATCH * PATCH * c))
            x = torch.cat([x, network.x_pad_token.expand(b, SEQ_MULTI_OF - 1, -1)], dim=1)
            length = attention_mask.sum(dim=1)
            room, none = filled_up(length), torch.zeros(SEQ_MULTI_OF - 1, dtype=torch.int64)
            row = torch.cat([torch.arange(rows)[:, None].expand(rows, columns).reshape(-1), none])
            column = torch.cat([torch.arange(columns)[None].expand(rows, columns).reshape(-1), none])
            patch = torch.cat([torch.ones(rows * columns, dtype=torch.int64), none])
            in_x = (torch.arange(x.shape[1]) < filled_up(patch.sum()))[None].expand(b, -1)
            x_turn = rotation(config, [(room[:, None] + 1) * patch, row.expand(b, -1), column.expand(b, -1)])
            x_bias = bias_of(in_x)
            for block in network.noise_refiner:
                x = block(x, x_bias, x_turn, given)

            states = torch.nn.functional.pad(
                encoder_hidden_states, (0, 0, 0, -encoder_hidden_states.shape[1] % SEQ_MULTI_OF)
            )
            at = torch.arange(states.shape[1])[None].expand(b, -1)
            text = torch.where((at < length[:, None])[..., None], network.cap_embedder(states), network.cap_pad_token)
            in_text, text_turn = at < room[:, None], rotation(config, [at + 1, 0 * at, 0 * at])
            text_bias = bias_of(in_text)
            for block in network.context_refiner:
                text = block(text, text_bias, text_turn)

            both = torch.cat([x, text], dim=1)
            seen, turn = bias_of(torch.cat([in_x, in_text], dim=1)), torch.cat([x_turn, text_turn], dim=2)
            for block in network.layers:
                both = block(both, seen, turn, given)
            found = network.all_final_layer[f"{PATCH}-{FRAMES}"](both[:, : rows * columns], c=given)
            found = found.reshape(b, rows, columns, PATCH, PATCH, c).permute(0, 5, 1, 3, 2, 4)
            return -found.reshape(b, c, h, w)

    return Denoiser()


def bias_of(seen: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, float32 [B, 1, S, S]: written out, as onnxruntime's one operator for attention reads
    it; `seen` bool [B, S]."""
    import torch

    bias = torch.where(seen, 0.0, -torch.inf)[:, None, None, :]
    return bias.expand(-1, 1, seen.shape[1], -1)


def rotation(config: dict[str, Any], positions: list[torch.Tensor]) -> torch.Tensor:
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
