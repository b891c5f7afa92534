"""Checkpoints in their authors' layout, by renaming: the inverse of what diffusers reads them with."""

from __future__ import annotations

import re

import torch

State = dict[str, torch.Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
AUTOENCODER = {
    r"down_blocks\.(\d+)\.resnets\.(\d+)": r"down.\1.block.\2",
    r"down_blocks\.(\d+)\.downsamplers\.0\.conv": r"down.\1.downsample.conv",
    r"up_blocks\.(\d+)\.resnets\.(\d+)": r"up.\1.block.\2",
    r"up_blocks\.(\d+)\.upsamplers\.0\.conv": r"up.\1.upsample.conv",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}


def ldm_unet(state: State, layers: int, attends: list[bool]) -> State:
    """`attends`: whether each of the up blocks has attention, which moves the upsampler's number."""
    found = {}
    for name, tensor in state.items():
        head, _, tail = name.rpartition(".")
        key = OUTER.get(head, "")
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", head):
            side, block, kind, layer, rest = match.groups()
            number = int(block) * (layers + 1) + int(layer) + (side == "down")
            key = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}."
            key += RESNET[rest] if kind == "resnets" else rest
        elif match := re.match(r"down_blocks\.(\d+)\.downsamplers", head):
            key = f"input_blocks.{(int(match[1]) + 1) * (layers + 1)}.0.op"
        elif match := re.match(r"up_blocks\.(\d+)\.upsamplers", head):
            block = int(match[1])
            key = f"output_blocks.{block * (layers + 1) + layers}.{1 + attends[block]}.conv"
        elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", head):
            kind, layer, rest = match.groups()
            number = 1 if kind == "attentions" else 2 * int(layer)
            key = f"middle_block.{number}.{RESNET[rest] if kind == 'resnets' else rest}"
        assert key, name
        found[f"model.diffusion_model.{key}.{tail}"] = tensor
    return found


def ldm_vae(state: State, prefix: str = "first_stage_model.") -> State:
    last = max(int(name.split(".")[2]) for name in state if ".up_blocks." in name)
    found = {}
    for name, tensor in state.items():
        attention = re.search(r"attentions\.0\.to_.*weight", name)
        key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{last - int(m[1])}", name)
        for pattern, new in AUTOENCODER.items():
            key = re.sub(pattern, new, key)
        found[prefix + key] = tensor[:, :, None, None].clone() if attention else tensor
    return found


def clip(state: State, prefix: str) -> State:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}


def open_clip(state: State, prefix: str) -> State:
    """Its three projections in one, the text projection on its side."""
    whole = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    found = {prefix + new: state[name] for name, new in whole.items()}
    if "text_projection.weight" in state:
        found[f"{prefix}text_projection"] = state["text_projection.weight"].T.contiguous()
    for name, tensor in state.items():
        if not (match := re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)):
            continue
        layer, part, kind = match.groups()
        block = f"{prefix}transformer.resblocks.{layer}."
        if part in parts:
            found[f"{block}{parts[part]}.{kind}"] = tensor
        elif part.endswith("q_proj"):
            three = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(three)
    return found


def flux(state: State) -> State:
    """FLUX's own names: one tensor for queries, keys, values (and the first layer behind them)."""
    names = {"ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2", "ff_context.net.0.proj": "txt_mlp.0",
             "ff_context.net.2": "txt_mlp.2", "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
             "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj"}  # fmt: skip
    norms = {
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    }
    outer = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
             "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
             "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
             "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
             "time_text_embed.text_embedder.linear_2": "vector_in.out_layer"}  # fmt: skip
    found = {}
    for name, tensor in state.items():
        head, _, kind = name.rpartition(".")
        double = re.match(r"transformer_blocks\.(\d+)\.(.*)", head)
        single = re.match(r"single_transformer_blocks\.(\d+)\.(.*)", head)
        if head in outer:
            found[f"{outer[head]}.{kind}"] = tensor
        elif head == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat(tensor.chunk(2)[::-1])
        elif double and double[2] in names:
            found[f"double_blocks.{double[1]}.{names[double[2]]}.{kind}"] = tensor
        elif double and double[2] in norms:
            found[f"double_blocks.{double[1]}.{norms[double[2]]}.scale"] = tensor
        elif double and double[2] in ("attn.to_q", "attn.add_q_proj"):
            three = [state[name.replace("_q", f"_{letter}")] for letter in "qkv"]
            which = "img" if double[2] == "attn.to_q" else "txt"
            found[f"double_blocks.{double[1]}.{which}_attn.qkv.{kind}"] = torch.cat(three)
        elif single and single[2] == "norm.linear":
            found[f"single_blocks.{single[1]}.modulation.lin.{kind}"] = tensor
        elif single and single[2] == "proj_out":
            found[f"single_blocks.{single[1]}.linear2.{kind}"] = tensor
        elif single and single[2] in ("attn.norm_q", "attn.norm_k"):
            which = {"q": "query", "k": "key"}[single[2][-1]]
            found[f"single_blocks.{single[1]}.norm.{which}_norm.scale"] = tensor
        elif single and single[2] == "attn.to_q":
            parts = [state[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            parts.append(state[name.replace("attn.to_q", "proj_mlp")])
            found[f"single_blocks.{single[1]}.linear1.{kind}"] = torch.cat(parts)
    return found


def stable_diffusion(states: dict[str, State], layers: int, attends: list[bool]) -> State:
    """As Stable Diffusion 1 and its fine-tunes are published."""
    return {
        **ldm_unet(states["unet"], layers, attends),
        **ldm_vae(states["vae"]),
        **clip(states["text_encoder"], "cond_stage_model.transformer."),
    }


def stable_diffusion_xl(states: dict[str, State], layers: int, attends: list[bool]) -> State:
    return {
        **ldm_unet(states["unet"], layers, attends),
        **ldm_vae(states["vae"]),
        **clip(states["text_encoder"], "conditioner.embedders.0.transformer."),
        **open_clip(states["text_encoder_2"], "conditioner.embedders.1.model."),
    }
