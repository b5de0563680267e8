"""How a checkpoint of sentence-transformers makes a vector of a text: its ``modules.json``."""

from __future__ import annotations

import json
import warnings

import pytest

from densecore.convert.pooling import pooling_type
from densecore.exceptions import ModelLoadError


def folder_with(folder, settings, *more):
    """A folder with modules.json and the settings of its pooling; `more` are kinds of modules after it."""
    kinds = ["models.Transformer", "models.Pooling", *more]
    modules = [{"idx": i, "path": "pool" if i == 1 else "", "type": f"a.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pool").mkdir()
    (folder / "pool" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8} | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
        ({"pooling_mode_cls_token": True}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "mean"}, 1),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_pooling(tmp_path, settings, number):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(pooling_type(folder_with(tmp_path, settings, "models.Normalize"))) == [("pooling_type", number)]


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},  # one vector behind the other
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_weightedmean_tokens": True},
        {"pooling_mode": ["mean", "cls"]},
        {},
    ],
)
def test_other_poolings_are_refused(tmp_path, settings):
    with pytest.raises(ModelLoadError, match=r"pooling mode is none that GGUF files know.*mean, cls, lasttoken"):
        list(pooling_type(folder_with(tmp_path, settings)))


def test_a_module_that_is_left_out_is_a_warning(tmp_path):
    folder = folder_with(tmp_path, {"pooling_mode_cls_token": True}, "models.Dense", "models.Normalize")
    with pytest.warns(RuntimeWarning, match=r"modules\.json.*its vectors will be others: Dense$"):
        assert list(pooling_type(folder)) == [("pooling_type", 2)]


def test_no_modules(tmp_path):
    assert list(pooling_type(tmp_path)) == []
