"""`make gpu-check`: the gate's tables on the CPU against a GPU's, and every method beside the bare passes there."""
