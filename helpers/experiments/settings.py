"""From blocks of params.yaml to the values that methods take."""

from helpers.guidance import STRENGTHS, Recurrence, Strength, Window
from helpers.params import RecurrenceBlock, StrengthBlock


def strength(block: StrengthBlock) -> Strength:
    return STRENGTHS[block.rule](block.scale, block.clip)


def recurrence(block: RecurrenceBlock) -> Recurrence:
    return Recurrence(block.times, Window(0.0, block.window), block.noise)
