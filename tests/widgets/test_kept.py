"""Traces that are sampled once: read again as long as nothing of what they are made of changes."""

import numpy as np
import pytest
from attention_traces import EARLY, LAYOUT, record, trace

from helpers.widgets import kept as module
from helpers.widgets.kept import kept


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """How often Traces were sampled; out/, the code and the models are in a folder of the test."""
    for name in ("ROOT", "CODE", "MODELS", "DATA"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module, name, tmp_path / name)
    (tmp_path / "CODE" / "method.py").write_text("weight = 1")
    (tmp_path / "MODELS" / "weights").write_text("1")
    return []


def test_they_are_sampled_once(calls):
    def sampled():
        calls.append(1)
        return {"none": trace("none", record(LAYOUT, 0.1, EARLY)), "ilgd": trace("ilgd", record(LAYOUT, 0.2, EARLY))}

    first, again = kept("attention", sampled, 20, 4), kept("attention", sampled, 20, 4)
    assert len(calls) == 1 and list(again) == ["none", "ilgd"], "in their order"
    for case, found in again.items():
        assert found.settings == first[case].settings
        np.testing.assert_array_equal(found.records[0].frames, first[case].records[0].frames)
        assert found.records[0].maps.keys() == first[case].records[0].maps.keys()


@pytest.mark.parametrize("change", ["settings", "code", "models", "source"])
def test_whatever_changes_they_are_sampled_anew(calls, change):
    def sampled():
        calls.append(1)
        return {"none": trace("none", record(LAYOUT, 0.1, EARLY))}

    def other():
        calls.append("other")
        return {"other": trace("none", record(LAYOUT, 0.1, EARLY))}

    kept("attention", sampled, 20)
    if change == "code":
        (module.CODE / "method.py").write_text("weight = 2")
    if change == "models":
        (module.MODELS / "weights").write_text("22")
    again = kept("attention", other if change == "source" else sampled, 30 if change == "settings" else 20)
    assert len(calls) == 2 and list(again) == ["other" if change == "source" else "none"]
    assert not (module.ROOT / "out" / "explore" / "attention" / "none").exists() or change != "source", "one at a time"
