"""One method, one file: a Guidance with the paper's equation in its docstring, and its energies as pure functions.

Here is what all of them share; a method is imported from its own file: `from helpers.guidance.dga import DGA`.
"""

from helpers.guidance.base import Branch, Ctx, Guidance, Job, Recurrence, Window
from helpers.guidance.cfg import CFG
from helpers.guidance.strength import STRENGTHS, Exploding, Matched, Polyak, Raw, Strength, Unit

__all__ = [
    "CFG",
    "STRENGTHS",
    "Branch",
    "Ctx",
    "Exploding",
    "Guidance",
    "Job",
    "Matched",
    "Polyak",
    "Raw",
    "Recurrence",
    "Strength",
    "Unit",
    "Window",
]
