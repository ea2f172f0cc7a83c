"""What a case of params.yaml means, one file per experiment; `draw` runs any of them."""
