"""Where CUDA kernels are faster than Triton's, by benchmarks/report.py."""

# op: the dtypes of its first tensor, by benchmarks/results/gpu.json
CUDA_IS_FASTER: dict[str, tuple[str, ...]] = {}
