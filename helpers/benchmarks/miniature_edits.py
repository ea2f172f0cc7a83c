"""What the pictures of the drag benchmark should become: rendered on demand, since data/ holds scenes and motions only.

Apart from the loader, so that what reads drags does not depend on the renderer.
"""

import numpy as np

from helpers.miniature.items import DragCase
from helpers.miniature.scene import shifted
from helpers.miniature.world import render


def edited(case: DragCase) -> np.ndarray:
    """The picture as it should become, uint8 (64, 64, 3); ValueError when only a renderer would know it."""
    if case.scene is None:
        raise ValueError(f"case {case.id} was drawn by a model: no edited picture is known, compare with the source")
    return render(shifted(case.scene, case.shifts)).image
