"""A proof on a machine with an NVIDIA GPU and without a network. See docs/gpu-proof.md."""
