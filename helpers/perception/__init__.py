"""Differentiable perception that guides sampling. Nothing here may import the judge (helpers.judges.recogniser)."""
