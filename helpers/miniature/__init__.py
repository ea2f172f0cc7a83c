"""The miniature world: a renderer of captioned scenes and the tiny models that are trained on it."""
