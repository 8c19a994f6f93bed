"""Empty stand-ins for what writers of datasets import and do not use: frameworks and cloud clients of gigabytes.

A name in one of them is a class of its own, so that `isinstance` says no and types can be keys. Nothing that a writer
stores comes from here: were it to, it would fail to serialise.
"""

import abc
import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = {
    "torch", "torchvision", "transformers", "boto3", "botocore", "google", "azure", "databricks", "oci", "paramiko",
    "lightning_sdk", "obstore", "tifffile", "fsspec",
}


class _Type(abc.ABCMeta):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _class(name)

    def __iter__(cls):
        return iter(())


def _class(name):
    def new(cls, *args, **kwargs):
        # A decorator gives back what it decorates.
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]
        return object.__new__(cls)

    return _Type(name, (), {"__new__": new, "__init__": lambda self, *a, **k: None, "__call__": lambda self, *a, **k: a[0] if a and callable(a[0]) else self,
                            "__bool__": lambda self: False, "__class_getitem__": classmethod(lambda cls, _: cls),
                            "__getattr__": lambda self, name: _class(name)()})


class _Module(types.ModuleType):
    __path__ = []
    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = _class(name)
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install():
    """Behind everything that is installed: a package that is there is used."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
