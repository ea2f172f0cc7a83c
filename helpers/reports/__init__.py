"""What the report stage makes of each experiment: one file per experiment, with `write(folder, params, reference)`."""
