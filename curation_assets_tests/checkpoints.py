"""Checkpoints: tiny ones with random weights, written by the transformers library in the format in which the models are published.

Sizes that a model's spec promises (dim, picture size, frames) are the published ones; everything inside is as small as can be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = "a photo video of the red blue dog cat runs sleeps on grass 1 2 3".split()


def save(model: Any, folder: Path, *, seed: int = 3) -> None:
    """Fill a model with random numbers large enough that pictures matter, and save it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            value.copy_(
                torch.randn(value.shape, generator=generator) * (0.02 if value.ndim < 2 else 1.2 / value.shape[-1] ** 0.5) + is_norm
            )
    model.save_pretrained(folder)


def write_clip(folder: Path) -> Path:
    """Write a checkpoint of clip-vit-b32: pytorch_model.bin with the counters of old versions, as the published one."""
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ph", "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: place for place, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=[("p", "h"), ("t", "h"), ("th", "e</w>")]).save_pretrained(folder)
    inner = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    # eos_token_id 2 is what the published config says; the model then takes the largest token for the end
    text = {**inner, "vocab_size": len(vocab), "max_position_embeddings": 16, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config={**inner, "image_size": 224, "patch_size": 56}, projection_dim=512)
    save(CLIPModel(config), folder)
    state = load_file(folder / "model.safetensors")
    for part, length in (("text", 16), ("vision", 17)):
        state[f"{part}_model.embeddings.position_ids"] = torch.arange(length)[None]
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def write_siglip2(folder: Path) -> Path:
    """Write a checkpoint of siglip2."""
    from transformers import Siglip2Tokenizer, SiglipConfig, SiglipModel

    letters = sorted({letter for word in WORDS for letter in word} | {"▁"})
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "do", "dog"]
    vocab = {token: place for place, token in enumerate(tokens)}
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=[("d", "o"), ("do", "g")], padding_side="right")
    tokenizer.save_pretrained(folder)
    inner = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**inner, "hidden_size": 32, "vocab_size": len(vocab), "max_position_embeddings": 64, "projection_size": 768}
    vision = {**inner, "hidden_size": 768, "image_size": 224, "patch_size": 56}
    save(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), folder)
    return folder


def write_videoprism(folder: Path) -> Path:
    """Write a checkpoint of videoprism."""
    from transformers import VideoPrismClipModel, VideoPrismConfig, VideoPrismTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -5.0) for letter in letters),
        ("▁dog", -1.0),
        ("▁the", -1.0),
    ]
    # the published tokenizer has a hundred sentinels for which the text tower has no vectors
    VideoPrismTokenizer(vocab=pieces, extra_ids=3).save_pretrained(folder)
    inner = {"hidden_size": 768, "intermediate_size": 48, "num_attention_heads": 4}
    vision = {**inner, "tubelet_size": [1, 96, 96], "num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    text = {**inner, "vocab_size": len(pieces), "num_hidden_layers": 1}
    save(VideoPrismClipModel(VideoPrismConfig(vision_config=vision, text_config=text)), folder)
    return folder


def write_pe_video(folder: Path) -> Path:
    """Write a checkpoint of pe-video: the whole audio-visual model, its picture tower under the name and with the settings that timm has for it."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ModernBertConfig, PeAudioVideoConfig, PeAudioVideoModel

    from curation_assets.models.pe_core import PeCoreConfig, register

    register()
    pieces = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *sorted({letter for word in WORDS for letter in word}), *WORDS]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 3}
    text = ModernBertConfig(
        vocab_size=len(vocab), hidden_size=1024, intermediate_size=32, num_hidden_layers=2, num_attention_heads=16, local_attention=8, **ids
    )
    inner = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    sound = {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "hidden_size": 16,
        "codebook_dim": 8,
        "downsampling_ratios": [2, 2],
        "n_codebooks": 1,
    }
    pictures: Any = PeCoreConfig
    config = PeAudioVideoConfig(
        text_config=text,
        audio_video_config={
            **inner,
            "video_config": {
                "model_type": "pe_video_encoder",
                **inner,
                "vision_config": pictures(width=32, depth=2, num_heads=2, num_pool_heads=4, num_labels=24),
            },
            "audio_config": {"model_type": "pe_audio_encoder", **inner, "dac_config": sound},
        },
    )
    save(PeAudioVideoModel(config), folder)
    written = json.loads((folder / "config.json").read_text())
    # the published file was written by transformers 5.0.1.dev0, with every setting of the library that there was
    legacy = {
        "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bos_token_id": None, "chunk_size_feed_forward": 0,
        "cross_attention_hidden_size": None, "decoder_start_token_id": None, "dtype": None, "eos_token_id": None, "finetuning_task": None,
        "is_decoder": False, "is_encoder_decoder": False, "output_attentions": False, "output_hidden_states": False, "pad_token_id": None,
        "prefix": None, "problem_type": None, "return_dict": True, "sep_token_id": None, "task_specific_params": None, "tie_encoder_decoder": False,
        "tie_word_embeddings": True, "tokenizer_class": None,
    }  # fmt: skip
    written["text_config"] |= {"dtype": "float32", "global_attn_every_n_layers": 3, "repad_logits_with_grad": False}
    written["audio_video_config"]["video_config"] |= {
        **legacy,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    }
    written["audio_video_config"]["video_config"]["vision_config"] = {
        **legacy,
        "initializer_range": 0.02,
        "label_names": [f"LABEL_{number}" for number in range(24)],
        "architecture": "vit_pe_core_large_patch14_336",
        "do_pooling": True,
        "global_pool": "map",
        "model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, "attn_pool_num_heads": 4},
        "model_type": "timm_wrapper",
        "num_classes": 24,
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def write_aesthetic(folder: Path, *, seed: int = 3) -> Path:
    """Write the two repositories of the scorer aesthetic beside each other: a whole CLIP model, text tower and all, and the head at its published size."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    inner = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**inner, "hidden_size": 32, "vocab_size": 64, "max_position_embeddings": 16, "projection_dim": 768}
    vision = {**inner, "hidden_size": 48, "image_size": 224, "patch_size": 56, "projection_dim": 768}
    tower = folder / "clip-vit-large-patch14"
    save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)), tower, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (width, wider) in {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}.items():
        state[f"layers.{layer}.weight"] = torch.randn(width, wider, generator=generator) * 2 / wider**0.5
        state[f"layers.{layer}.bias"] = torch.randn(width, generator=generator) * 0.1 + (layer == 7) * 5
    head = folder / "sac-logos-ava1-l14-linearMSE"
    head.mkdir(parents=True)
    save_file(state, head / "model.safetensors", metadata={"format": "pt"})
    return folder


def add_tokens(folder: Path, count: int) -> None:
    """Add tokens to a tokenizer.json, numbered on from those that it has."""
    from tokenizers import Tokenizer

    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens([f"more{number}" for number in range(count)])
    tokenizer.save(path)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "clip-vit-b32": write_clip,
    "siglip2": write_siglip2,
    "videoprism": write_videoprism,
    "pe-video": write_pe_video,
}
"""Registry name -> what writes its checkpoint."""


def link_as_cached(snapshot: Path) -> None:
    """Move a snapshot's files where the Hugging Face cache keeps them, named by their SHA-256, and leave links."""
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(exist_ok=True)
    for path in [path for path in snapshot.rglob("*") if path.is_file() and not path.is_symlink()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(blob)
