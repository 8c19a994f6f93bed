"""Where batches and tensors live."""

from __future__ import annotations

from typing import Any

from . import _abi


class Device(_abi.Owned):
    """A device: `"host"` (or `"cpu"`), `"cuda"`, `"cuda:1"`, a CUDA ordinal, `"auto"`, or what prints like one of these
    (`torch.device`)."""

    __slots__ = ()

    def __init__(self, device: Any = "auto"):
        text = str(device) if isinstance(device, bool) or not hasattr(device, "__index__") else f"cuda:{device}"
        kind, _, ordinal = text.partition(":")
        if kind in ("host", "cpu") and ordinal in ("", "0"):
            handle = _abi.strait_device_host()
        elif kind == "cuda" and (ordinal.isdecimal() or not ordinal):
            handle = _abi.strait_device_cuda(int(ordinal or 0))
        elif text == "auto":
            handle = _abi.strait_device_auto()
        else:
            raise ValueError(f'{device!r} is no device of strait: "host", "cpu", "cuda", "cuda:1", an ordinal, or "auto"; '
                             "for others read to the host, and move arrays from there")
        self._own(handle, _abi.strait_device_free)

    @classmethod
    def pinned_host(cls, accelerator: Any = "cuda") -> Device:
        """Host memory that this device has pinned, so that its streams copy from batches directly; the host addresses it too.

        What DLPack calls kDLCUDAHost for a CUDA device. Giving a batch back waits for streams that still read from it."""
        kept = accelerator if isinstance(accelerator, Device) else Device(accelerator)
        return cls._of(_abi.strait_device_pinned_host(kept._handle))

    @classmethod
    def _of(cls, handle: int) -> Device:
        self = cls.__new__(cls)
        self._own(handle, _abi.strait_device_free)
        return self

    @property
    def name(self) -> str:
        """A name for people: `"cuda:0 (NVIDIA H200)"`."""
        return _abi.text(_abi.strait_device_name(self._handle))

    def __dlpack_device__(self) -> tuple[int, int]:
        """What DLPack calls it: type (1 the host, 2 CUDA) and number."""
        return _abi.strait_device_dlpack(self._handle)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"strait.Device({self.name!r})"
