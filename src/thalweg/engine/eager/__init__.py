"""The eager backends: plain PyTorch operations, without a compiler."""
