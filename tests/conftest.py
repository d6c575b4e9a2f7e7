"""Where there is no GPU, kernels run in triton's interpreter; it must be chosen before anything imports triton."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
