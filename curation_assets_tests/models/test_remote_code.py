"""Remote code: what its modules see of transformers and of each other, and the stand-ins for what transformers 5 no longer has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curation_assets.models.legacy_transformers import build_stand_ins
from curation_assets.models.remote_code import RemotePackage
from curation_assets.models.weights import WeightFile, WeightsError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., RemotePackage]:
    def write(**sources: str) -> RemotePackage:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        return RemotePackage(
            tmp_path, [WeightFile(f"{name}.py", None, None) for name in sources], stand_ins={"PreTrainedModel": "stand-in"}
        )

    return write


@pytest.mark.parametrize(
    "source",
    [
        "from transformers import PreTrainedModel as seen",
        "from transformers.modeling_utils import PreTrainedModel as seen",
        "import transformers\nseen = transformers.PreTrainedModel",
        "import transformers.modeling_utils\nseen = transformers.modeling_utils.PreTrainedModel",
        "import transformers.modeling_utils as utils\nseen = utils.PreTrainedModel",
        "from transformers import modeling_utils\nseen = modeling_utils.PreTrainedModel",
        "def late():\n    from transformers import PreTrainedModel\n    return PreTrainedModel\nseen = late()",
        "from . import other\nseen = other.seen",
        "from .other import seen",
        "from .other import *",
    ],
)
def test_modules_see_the_stand_in_by_every_kind_of_import(package: Callable[..., RemotePackage], source: str) -> None:
    other = "from transformers import PreTrainedModel as seen"
    found = package(main=f"{source}\nclass Main:\n    found = seen", other=other).load("main.Main")
    assert found.found == "stand-in"
    assert isinstance(transformers.PreTrainedModel, type)


def test_other_names_are_the_installed_ones(package: Callable[..., RemotePackage]) -> None:
    source = """
import math
from dataclasses import dataclass
from transformers import BertConfig
from transformers.modeling_utils import prune_linear_layer
@dataclass
class Main:
    found: "int" = 1
    parts = (BertConfig, prune_linear_layer, math)
"""
    main = package(main=source).load("main.Main")
    assert main.parts[0] is transformers.BertConfig
    assert main.parts[1] is transformers.pytorch_utils.prune_linear_layer
    assert main().found == 1


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        pytest.param("from ..other import x", "main.Main", "lies outside of", id="above"),
        pytest.param("def f():\n    from .other import x\nf()", "main.Main", "other is not among the pinned files", id="late"),
        pytest.param("1 / 0", "main.Main", "does not run here: ZeroDivisionError", id="raises"),
        pytest.param("Main = 1", "main.Main", "has no class Main", id="no class"),
        pytest.param("", "owner/repo--main.Main", "auto_map names 'owner/repo--main.Main'", id="another repository"),
    ],
)
def test_what_cannot_be_loaded_is_one_error(package: Callable[..., RemotePackage], source: str, reference: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        package(main=source, **({"other": ""} if ".." in source else {})).load(reference)


@pytest.fixture(scope="module")
def stand_ins() -> dict[str, Any]:
    return build_stand_ins()


@pytest.fixture(scope="module")
def model(stand_ins: dict[str, Any]) -> Any:
    made = stand_ins["PreTrainedModel"](stand_ins["BertConfig"].from_pretrained("bert-base-uncased"))
    made.weight = torch.nn.Parameter(torch.ones(1))  # which gives it a dtype
    return made


def test_masks_are_as_transformers_4_made_them(model: Any) -> None:
    mask = torch.tensor([[1, 1, 0]])
    lowest = torch.finfo(torch.float32).min
    for made in (model.invert_attention_mask(mask), model.get_extended_attention_mask(mask, mask.shape)):
        assert made.tolist() == [[[[0, 0, lowest]]]]
    assert model.invert_attention_mask(mask[:, None].expand(1, 2, 3)).tolist() == [[[[0, 0, lowest]] * 2]]
    assert model.get_extended_attention_mask(mask, mask.shape, dtype=torch.float16).min() == torch.finfo(torch.float16).min
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        model.invert_attention_mask(mask[0])


def test_head_masks_are_per_layer(model: Any) -> None:
    assert model.get_head_mask(None, 3) == [None] * 3
    heads = torch.tensor([1, 0])
    mask = model.get_head_mask(heads, 3)
    assert mask.shape == (3, 1, 2, 1, 1)
    assert mask[:, 0, :, 0, 0].tolist() == [[1, 0]] * 3
    assert model.get_head_mask(torch.eye(2), 2)[:, 0, :, 0, 0].tolist() == torch.eye(2).tolist()
    assert model.get_head_mask(heads, 3, True).shape == (3, 1, 2, 1, 1, 1)


@pytest.mark.parametrize(
    ("heads", "num_heads", "pruned", "expected"),
    [([0], 3, set(), ({0}, [2, 3, 4, 5])), ([2], 2, {1}, ({2}, [0, 1])), ([1], 2, {1}, (set(), [0, 1, 2, 3]))],
)
def test_pruned_heads(
    stand_ins: dict[str, Any], heads: list[int], num_heads: int, pruned: set[int], expected: tuple[set[int], list[int]]
) -> None:
    left, rows = stand_ins["find_pruneable_heads_and_indices"](heads, num_heads, 2, pruned)
    assert (left, rows.tolist()) == expected


def test_bert_base_needs_no_network(stand_ins: dict[str, Any]) -> None:
    config = stand_ins["BertConfig"].from_pretrained("bert-base-uncased", num_hidden_layers=2)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (768, 30522, 2)
    assert isinstance(config, transformers.BertConfig)
