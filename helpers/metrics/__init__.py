"""How results are scored: the judge, layout accuracy, distribution distances, appearance, and their intervals."""
