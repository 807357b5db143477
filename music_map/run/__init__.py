"""An experiment as an object: its configuration, its folder, its stages; train, evaluate, recommend."""
