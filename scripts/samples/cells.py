"""What is compared with what."""

import importlib
from typing import NamedTuple

import pictures
import records
import tokens


class Loader(NamedTuple):
    name: str
    open: object  # a function of the directory and `options`
    place: str  # its directory, which make.py fills
    needs: list  # modules that are imported before it is timed
    options: dict
    kind: object  # the module that says what is in its batches

    def imported(self):
        for module in self.needs:
            importlib.import_module(module)


def _cells(kind):
    def loader(name, open, place, needs, **options):
        return Loader(name, open, place, needs.split(), options, kind)

    return kind.cells(loader)


CELLS = {**_cells(pictures), **_cells(tokens), **_cells(records)}
