"""strait streams training shards and model weights from NVMe into GPU memory.

    import strait

    loader = strait.Loader(strait.Dataset("train/"), batch_size=256, shuffle=True, seed=17)
    for batch in loader:
        tokens = batch["tokens"].torch()

Batches and tensors are memory of the library without a copy, handed to NumPy, PyTorch, JAX and others by DLPack; none of
these is imported unless asked for. A process makes its own loaders: after a fork those of its parent are errors. What the
library has to say besides errors goes to the logger "strait" (see `strait.log`).
"""

from . import errors, log
from .batch import Batch, Ragged, Window
from .checkup import doctor, version
from .cursor import merge
from .dataset import Dataset, Extent, Field, Shard, Sidecars
from .device import Device
from .errors import Error
from .loader import Loader
from .opened import safe_open
from .save import Saved, save_file
from .tensor import Tensor
from .weights import Checkpoint, load_file, load_into

__version__ = version()
__all__ = [
    "Batch", "Checkpoint", "Dataset", "Device", "Error", "Extent", "Field", "Loader", "Ragged", "Saved", "Shard", "Sidecars",
    "Tensor", "Window", "doctor", "errors", "load_file", "load_into", "merge", "safe_open", "save_file", "version",
]
log.start()
