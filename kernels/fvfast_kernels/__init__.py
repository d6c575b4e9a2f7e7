"""fvfast's fused operations: from a learnable Fourier spectrum to the view that a network sees, and back."""
