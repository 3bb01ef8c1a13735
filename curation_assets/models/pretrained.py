"""Pretrained: models of the transformers library from a folder, every weight accounted for. No network, no remote code, no pickled code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation_assets.models.weights import WeightsError, listed

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

_BUFFERS = r"(^|\.)position_ids$"
"""Old checkpoints hold these counters; the models make their own."""


def load_pretrained(
    model_class: Any,
    folder: Path,
    state_path: Path,
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    ignored: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Load a transformers model from a folder's config.json and one file of weights; no other file is looked at.

    The library fills weights that a file lacks with random numbers and only warns; here that is an error. It is given the weights and not the folder, in which
    it would prefer other files to the one that was checked.

    Args:
        model_class: a PreTrainedModel.
        folder: where config.json lies.
        state_path: the file of weights, as `weights_file` finds it.
        name: registry name, for the message.
        device: where it will run.
        dtype: what it computes in.
        ignored: patterns of weights in the file that the model has no use for.
        options: for `from_pretrained`.

    Raises:
        WeightsError: the files cannot be read, or weights are missing, left over, of another shape, no floats or not finite.
    """
    known = re.compile("|".join([_BUFFERS, *ignored]))
    state = read_state(state_path, name=name)
    check_values(((key, value) for key, value in state.items() if not known.search(key)), state_path, name=name)
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # partly untyped
    has_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its report on the weights is judged below
    try:
        model, info = model_class.from_pretrained(
            None,
            config=model_class.config_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            state_dict=state,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are reported
            **options,
        )
    except Exception as error:  # the library, safetensors and torch raise many kinds for files that they cannot read
        raise WeightsError(f"weights of {name}: {folder} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
    said = {
        "missing": sorted(info["missing_keys"]),
        "unknown": sorted(key for key in info["unexpected_keys"] if not known.search(key)),
        "of another shape": [f"{key} {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])],
    }
    if any(said.values()):
        wrong = "; ".join(f"{len(keys)} {what}: {listed(keys)}" for what, keys in said.items() if keys)
        raise WeightsError(f"weights of {name}: {state_path} does not fit the model: {wrong}")
    return model.eval().requires_grad_(False).to(device)


def read_state(path: Path, *, name: str) -> dict[str, torch.Tensor]:
    """Read all tensors of a .safetensors file, or of another that torch wrote, onto the CPU; no code in it is run.

    Raises:
        WeightsError: it cannot be read, or holds anything but tensors by name.
    """
    import torch
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to let the file run code
        raise WeightsError(f"weights of {name}: {path} cannot be loaded: it holds no weights, or code; download it again") from error
    except Exception as error:  # safetensors and torch raise many kinds for files that they cannot read
        raise WeightsError(f"weights of {name}: {path} cannot be loaded: {error}; download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"weights of {name}: {path} cannot be loaded: it holds something else than tensors by name")
    return dict(state)


def check_values(weights: Iterable[tuple[str, torch.Tensor]], path: Path, *, name: str) -> None:
    """Look at every number once; arguments and errors are those of `checked_values`."""
    for _ in checked_values(weights, path, name=name):
        pass


def checked_values(weights: Iterable[tuple[str, torch.Tensor]], path: Path, *, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass weights on, every number looked at once; nothing is copied, so that they may come from the file one by one.

    Args:
        weights: those that the model uses, by name.
        path: where they are from, for the message.
        name: registry name, likewise.

    Yields:
        The same.

    Raises:
        WeightsError: after the last, that some were of no floating-point format, or held NaN or infinity; names the first of each.
    """
    said: dict[str, list[str]] = {"of no floating-point format": [], "with NaN or infinity": []}
    for key, value in weights:
        if not value.is_floating_point():
            said["of no floating-point format"].append(key)
        elif not _is_finite(value):
            said["with NaN or infinity"].append(key)
        yield key, value
    if any(said.values()):
        wrong = "; ".join(f"{len(keys)} {what}: {listed(sorted(keys))}" for what, keys in said.items() if keys)
        raise WeightsError(f"weights of {name}: {path} does not fit the model: {wrong}")


def _is_finite(value: torch.Tensor) -> bool:
    """Judge by the extremes, which NaN reaches too: isfinite() of the whole makes two copies and takes ten times as long."""
    if not value.numel():
        return True
    # formats of one byte have no minimum
    extremes = (value if value.element_size() > 1 else value.float()).aminmax()
    return all(bool(extreme.isfinite()) for extreme in extremes)


def check_size(name: str, folder: Path, **sizes: tuple[object, object]) -> None:
    """Compare what a checkpoint's config says with what the model's spec promises.

    Args:
        name: registry name.
        folder: where the checkpoint lies.
        sizes: by what it is called, (found, wanted).

    Raises:
        WeightsError: one differs.
    """
    wrong = [f"{what} {found}, not {wanted}" for what, (found, wanted) in sizes.items() if found != wanted]
    if wrong:
        raise WeightsError(f"weights of {name}: {folder} is a checkpoint of another size: {', '.join(wrong)}")


def check_vocabulary(ids: Mapping[str, int], path: Path, *, name: str, num_rows: int) -> None:
    """Check that a text model knows every token that its tokenizer may give it: one that it does not fails on the CPU and stops a GPU.

    Args:
        ids: token -> its number.
        path: where they are from, for the message.
        name: registry name, likewise.
        num_rows: tokens that the text model has a vector for.

    Raises:
        WeightsError: a token's number is beyond them; names the largest.
    """
    last = max(ids, key=ids.__getitem__)
    if ids[last] >= num_rows:
        raise WeightsError(
            f"weights of {name}: {path} has tokens up to number {ids[last]} ({last}), the text model knows {num_rows}, 0 to {num_rows - 1}; "
            "take both from one download"
        )


def load_tokenizer(
    folder: Path, *, name: str, num_rows: int, num_tokens: int, template: str, pad_token: str, impossible: str = r"(?!)"
) -> Tokenizer:
    """Load tokenizer.json itself, because classes and versions of the library differ in what they make of it; what goes around a text is said here.

    Args:
        folder: where it lies.
        name: registry name, for the message.
        num_rows: tokens that the text model has a vector for.
        num_tokens: every text is cut or padded, on the right, to so many tokens.
        template: what is put around a text, $A, for example `$A <eos>`.
        pad_token: what it is padded with.
        impossible: pattern of tokens that no text of this model has; the text model may lack them.

    Raises:
        WeightsError: it cannot be read, does not know one of these tokens, or has others that the text model does not know.
    """
    from tokenizers import Tokenizer, processors

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise WeightsError(f"weights of {name}: {path} cannot be read: {error}") from error
    ids = {token: tokenizer.token_to_id(token) for token in (*template.replace("$A", "").split(), pad_token)}
    if unknown := [token for token, place in ids.items() if place is None]:
        raise WeightsError(f"weights of {name}: {path} has no token {listed(unknown)}")
    possible = {token: place for token, place in tokenizer.get_vocab().items() if not re.fullmatch(impossible, token)}
    check_vocabulary(possible, path, name=name, num_rows=num_rows)
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(ids.items()))
    tokenizer.enable_truncation(num_tokens)
    tokenizer.enable_padding(direction="right", length=num_tokens, pad_id=ids[pad_token], pad_token=pad_token)
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn texts into int64 (N, L) tokens and (N, L) ones where there is a token, zeros where there is padding."""
    import torch

    encoded = tokenizer.encode_batch(list(texts))
    ids = torch.tensor([item.ids for item in encoded], dtype=torch.int64, device=device)
    return ids, torch.tensor([item.attention_mask for item in encoded], dtype=torch.int64, device=device)
