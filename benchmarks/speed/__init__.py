"""Speed and memory of environments, responders, readers and kernels."""
