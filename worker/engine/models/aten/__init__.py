"""PyTorch's own operators, as TorchScript and torch.export files name them: which may run, how they are bound and rewritten."""
