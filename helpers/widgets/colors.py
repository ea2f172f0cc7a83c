"""A method's curves and windows have its colour wherever it is shown; the baseline's are grey.

None of these is told from another by hue alone: what stands in one panel differs in lightness or in its dashes.
"""

from zlib import crc32

from helpers.figures.style import BASE

METHODS = {"dga": "#0072b2", "dca": "#117733", "dma": "#d55e00", "ilgd": "#882255", "injection": "#882255"}
OTHERS = ("#332288", "#999933", "#000000")  # of methods that act alone or beside one of METHODS


def color_of(method: str, acts: bool = True) -> str:
    """Of a method by its name, such as a Trace's settings have it; grey where it only watches, and of what is no
    method's (`eff_cfg`)."""
    if not acts or method == "eff_cfg":
        return BASE
    return METHODS.get(method) or OTHERS[crc32(method.encode()) % len(OTHERS)]
