"""A small snapshot in the published layout of Cosmos-Embed1, with every trait that breaks under transformers 5, and its vectors in plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

WIDTH, PATCH, NUM_SHARDS, STORED_GRID = 12, 14, 5, 4
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "car", "drives", "on", "street", "the", "##s", *"bdefgh"]

CONFIGURATION = """
from transformers.configuration_utils import PretrainedConfig


class CosmosEmbed1Config(PretrainedConfig):
    model_type = "cosmos-embed1"

    def __init__(self, embed_dim=768, num_video_frames=8, resolution=224, width=12, **kwargs):
        self.embed_dim = embed_dim
        self.num_video_frames = num_video_frames
        self.resolution = resolution
        self.width = width
        super().__init__(**kwargs)
"""

OUTPUTS = """
from dataclasses import dataclass
from typing import Optional

import torch
from transformers.utils import ModelOutput


@dataclass
class VideoOutput(ModelOutput):
    visual_proj: Optional[torch.FloatTensor] = None


@dataclass
class TextOutput(ModelOutput):
    text_proj: Optional[torch.FloatTensor] = None
"""

UTILS = """
import torch


def rates(highest, count):
    return [x.item() for x in torch.linspace(0, highest, count)]  # fails on the meta device
"""

VIT = """
import torch
import torch.nn.functional as F
from torch import nn

from .modeling_utils import rates


class PositionalEmbeddingHook:
    def __init__(self, module):
        self.module = module

    def __call__(self, state_dict, prefix, *args):
        stored, wanted = state_dict.get(prefix + "pos_embed"), self.module.pos_embed
        if stored is None or stored.shape == wanted.shape:
            return
        old, new = int((stored.shape[1] - 1) ** 0.5), int((wanted.shape[1] - 1) ** 0.5)
        grid = stored[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
        state_dict[prefix + "pos_embed"] = torch.cat([stored[:, :1], grid], 1)


class EvaViTG(nn.Module):
    def __init__(self, resolution, width, patch=14):
        super().__init__()
        self.drop_rates = rates(0.4, 3)
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (resolution // patch) ** 2 + 1, width))
        self.register_buffer("mean", torch.tensor([0.48, 0.46, 0.41]).view(3, 1, 1), persistent=False)
        self._register_load_state_dict_pre_hook(PositionalEmbeddingHook(self))

    def forward(self, x):
        tokens = self.patch_embed(x - self.mean).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
"""

QFORMER = """
import torch
from torch import nn
from transformers.file_utils import ModelOutput
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel, apply_chunking_to_forward, find_pruneable_heads_and_indices, prune_linear_layer
from transformers.models.bert.configuration_bert import BertConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)


def build_config(width):
    config = BertConfig.from_pretrained("bert-base-uncased")
    assert (config.vocab_size, config.num_hidden_layers, config.layer_norm_eps) == (30522, 12, 1e-12)
    config.hidden_size, config.vocab_size, config.max_position_embeddings, config.encoder_width = width, 19, 16, width
    return config


class BertModel(PreTrainedModel):
    config_class = BertConfig
    base_model_prefix = "bert"
    _keys_to_ignore_on_load_missing = [r"position_ids"]
    _keys_to_ignore_on_load_unexpected = [r"pooler"]

    def __init__(self, config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.bias = self.dense.bias  # one tensor under two keys, of which the file has one
        self.register_buffer("position_ids", torch.arange(16))  # which the file lacks
        self.init_weights()  # as the published one: directly, without post_init

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, self.config.initializer_range)

    def feed_forward_chunk(self, hidden):
        return self.dense(self.dropout(hidden))

    def forward(self, hidden, mask=None):
        assert self.get_head_mask(None, 2) == [None, None]
        if mask is not None:
            scores = self.invert_attention_mask(mask)[:, 0, 0]
            hidden = (scores.softmax(1)[..., None] * hidden).sum(1, keepdim=True)
        hidden = apply_chunking_to_forward(self.feed_forward_chunk, self.config.chunk_size_feed_forward, 1, hidden)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden)
"""

MODELING = """
import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_embed1 import CosmosEmbed1Config
from .modeling_outputs import TextOutput, VideoOutput
from .modeling_qformer import BertModel, build_config
from .modeling_vit import EvaViTG


class CosmosEmbed1(PreTrainedModel):
    config_class = CosmosEmbed1Config

    def __init__(self, config):
        super().__init__(config)  # and no post_init
        self.visual_encoder = EvaViTG(config.resolution, config.width)
        self.qformer = BertModel(build_config(config.width))
        self.vision_proj = nn.Linear(config.width, config.embed_dim)
        self.text_proj = nn.Linear(config.width, config.embed_dim)
        self.register_buffer("places", torch.arange(1.0, 17.0), persistent=False)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def get_video_embeddings(self, videos):
        b, t = videos.shape[:2]
        tokens = self.visual_encoder(videos.flatten(0, 1)).unflatten(0, (b, t))
        weights = self.places[:t].to(tokens) / self.places[:t].sum()
        weighted = torch.tanh((tokens * weights[:, None, None]).sum(1) * 3).mean(1, keepdim=True)
        return VideoOutput(visual_proj=self.vision_proj(self.qformer(weighted).last_hidden_state[:, 0]))

    def get_text_embeddings(self, input_ids, attention_mask):
        input_ids, attention_mask = input_ids[:, :16], attention_mask[:, :16]
        hidden = self.qformer.word_embeddings(input_ids) + self.qformer.position_embeddings(self.qformer.position_ids)
        return TextOutput(text_proj=self.text_proj(self.qformer(hidden, attention_mask).last_hidden_state[:, 0]))
"""

PREPROCESSING = """
import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin


class CosmosEmbed1Processor(ProcessorMixin):
    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer=None, resolution=448, num_video_frames=8, max_txt_len=128):
        super().__init__(tokenizer=tokenizer)
        self.resolution, self.num_video_frames, self.max_txt_len = resolution, num_video_frames, max_txt_len

    def __call__(self, videos=None, text=None, return_tensors=None, **kwargs):
        found = {}
        if videos is not None:
            found["videos"] = torch.from_numpy(np.asarray(videos)).float() / 255.0
        if text is not None:
            found.update(self.tokenizer(text, padding="max_length", truncation=True, max_length=self.max_txt_len, return_tensors="pt", **kwargs))
        return BatchFeature(found)
"""

CODE = {
    "configuration_embed1.py": CONFIGURATION,
    "modeling_embed1.py": MODELING,
    "modeling_outputs.py": OUTPUTS,
    "modeling_qformer.py": QFORMER,
    "modeling_utils.py": UTILS,
    "modeling_vit.py": VIT,
    "preprocessing_embed1.py": PREPROCESSING,
}

State = dict[str, torch.Tensor]


def random_state(dim: int) -> State:
    """Weights of the stand-in, with the position embedding of a smaller picture, as published."""
    shapes = {
        "visual_encoder.patch_embed.weight": (WIDTH, 3, PATCH, PATCH), "visual_encoder.patch_embed.bias": (WIDTH,),
        "visual_encoder.cls_token": (1, 1, WIDTH), "visual_encoder.pos_embed": (1, STORED_GRID**2 + 1, WIDTH),
        "qformer.word_embeddings.weight": (len(VOCABULARY) + 1, WIDTH), "qformer.position_embeddings.weight": (16, WIDTH),
        "qformer.dense.weight": (WIDTH, WIDTH), "qformer.dense.bias": (WIDTH,),
        "vision_proj.weight": (dim, WIDTH), "vision_proj.bias": (dim,), "text_proj.weight": (dim, WIDTH), "text_proj.bias": (dim,),
        "logit_scale": (), "qformer.pooler.weight": (2, 2),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def write_snapshot(folder: Path, *, dim: int, size_px: int) -> State:
    """Write code, configuration, tokenizer and shards as published; give the weights."""
    folder.mkdir(parents=True)
    for name, source in CODE.items():
        (folder / name).write_text(source)
    auto_map = {"AutoConfig": "configuration_embed1.CosmosEmbed1Config", "AutoModel": "modeling_embed1.CosmosEmbed1"}
    auto_map["AutoProcessor"] = "preprocessing_embed1.CosmosEmbed1Processor"
    config = {
        "model_type": "cosmos-embed1",
        "architectures": ["CosmosEmbed1"],
        "auto_map": auto_map,
        "embed_dim": dim,
        "resolution": size_px,
    }
    write_json(folder / "config.json", {**config, "num_video_frames": 8, "width": WIDTH, "torch_dtype": "bfloat16"})
    processor = {"processor_class": "CosmosEmbed1Processor", "resolution": size_px, "num_video_frames": 8, "max_txt_len": 128}
    write_json(folder / "processor_config.json", processor)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", {"[DEC]": len(VOCABULARY)})
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    state = random_state(dim)
    write_shards(folder, state)
    return state


def write_shards(folder: Path, state: State) -> None:
    """Write the weights and their index."""
    from safetensors.torch import save_file

    shards = [f"model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors" for shard in range(NUM_SHARDS)]
    weight_map = {name: shards[place % NUM_SHARDS] for place, name in enumerate(state)}
    for shard in shards:
        save_file({name: state[name] for name, place in weight_map.items() if place == shard}, folder / shard, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def plain_video_vectors(state: State, frames: np.ndarray) -> np.ndarray:
    """Compute what the stand-in means, without its code: uint8 (N, 8, H, W, 3) -> (N, D)."""
    grid_px = frames.shape[2] // PATCH
    stored = state["visual_encoder.pos_embed"]
    grid = stored[:, 1:].reshape(1, STORED_GRID, STORED_GRID, WIDTH).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (grid_px, grid_px), mode="bicubic", align_corners=False)
    positions = torch.cat([stored[0, :1], grid[0].flatten(1).T])
    kernel = state["visual_encoder.patch_embed.weight"].permute(0, 2, 3, 1).reshape(WIDTH, -1).double()
    rows = []
    for clip in frames:
        pixels = torch.from_numpy(clip).double() / 255 - torch.tensor([0.48, 0.46, 0.41]).double()
        cells = pixels.reshape(8, grid_px, PATCH, grid_px, PATCH, 3).permute(0, 1, 3, 2, 4, 5).reshape(8, grid_px**2, -1)
        patches = cells @ kernel.T + state["visual_encoder.patch_embed.bias"]
        tokens = torch.cat([state["visual_encoder.cls_token"].expand(8, -1, -1).double(), patches], 1) + positions
        weights = torch.arange(1, 9).double() / 36
        pooled = torch.tanh(torch.einsum("t,tsc->sc", weights, tokens) * 3).mean(0)
        rows.append(_projected(state, "vision_proj", pooled))
    return torch.stack(rows).numpy()


def plain_text_vector(state: State, token_ids: list[int]) -> np.ndarray:
    """The same for the ids of one text, [CLS] and [SEP] among them, without padding."""
    words = state["qformer.word_embeddings.weight"][token_ids] + state["qformer.position_embeddings.weight"][: len(token_ids)]
    return _projected(state, "text_proj", words.double().mean(0)).numpy()


def _projected(state: State, name: str, pooled: torch.Tensor) -> torch.Tensor:
    hidden = state["qformer.dense.weight"].double() @ pooled + state["qformer.dense.bias"]
    vector = state[f"{name}.weight"].double() @ hidden + state[f"{name}.bias"]
    return vector / vector.norm()
