"""Llasa on ZeroGPU: its weights are on CUDA before the page opens, and every job borrows a GPU for seconds."""

import os

import spaces  # before torch: until a job runs, it stands in for CUDA
from llasa_lite.demo import LAUNCH, build

demo = build(os.environ.get("LLASA_MODEL", "llasa-1b-multilingual"), gpu=spaces.GPU)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
