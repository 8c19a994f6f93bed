"""strait streams training shards and model weights from NVMe into GPU memory.

    import strait

    loader = strait.Loader(strait.Dataset("train/"), batch_size=256, shuffle=True, seed=17)
    for batch in loader:
        tokens = batch["tokens"].torch()

Batches and tensors are memory of the library without a copy, handed to NumPy, PyTorch, JAX and others by DLPack; none of
these is imported unless asked for. A process makes its own loaders: after a fork those of its parent are errors.
"""

from . import errors
from .batch import Batch, Ragged, Window
from .checkup import doctor, version
from .dataset import Dataset, Extent, Field, Shard
from .device import Device
from .errors import Error
from .loader import Loader
from .tensor import Tensor
from .weights import Checkpoint, load_file, safe_open

__version__ = version()
__all__ = [
    "Batch", "Checkpoint", "Dataset", "Device", "Error", "Extent", "Field", "Loader", "Ragged", "Shard", "Tensor", "Window",
    "doctor", "errors", "load_file", "safe_open", "version",
]
