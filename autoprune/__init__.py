"""Hardware-aware AutoML search for pruning."""
