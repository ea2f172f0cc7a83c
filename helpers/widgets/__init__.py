"""Explorers for JupyterLab: ipywidgets over Traces. Nothing is sampled here, moving a slider only changes pictures."""

from helpers.widgets.attention import explore_attention
from helpers.widgets.common import load_traces
from helpers.widgets.flow import drag_errors, explore_flow
from helpers.widgets.masks import explore_masks, measure

__all__ = ["drag_errors", "explore_attention", "explore_flow", "explore_masks", "load_traces", "measure"]
