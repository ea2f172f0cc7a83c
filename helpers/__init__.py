"""Helpers of the training-free guidance lab: the guidance maths, the sampler and the miniature world."""
