"""Optical character recognition of PDF pages that are pictures, by rapidocr-onnxruntime (extra [ocr])."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MOST_OCR_PAGES", "OCR_FIX", "OCR_PAGE_S", "PageReader", "ocr_installed"]

OCR_FIX: Final = "pip install 'deepwell[ocr]' to read them by optical character recognition"
OCR_PAGE_S: Final = 20.0  # processor time of a page; the ground's timer is set anew for each
MOST_OCR_PAGES: Final = 300
_DPI: Final = 200
_MOST_PIXELS: Final = 12_000_000  # a page of A3 at 200 dpi has 7.7 million


def ocr_installed() -> bool:
    """Tells whether the extra [ocr] is installed."""
    return find_spec("rapidocr_onnxruntime") is not None


class PageReader:
    """Reads the text of pages that are pictures. The model is loaded at the first page.

    Attributes:
        pages: number of pages read.
    """

    def __init__(self) -> None:
        self.pages = 0
        self._engine: Any = None

    def read(self, page: Any) -> str:
        """Returns the lines that are recognised on a page of pypdfium2.

        Raises:
            InvalidFile: more than 300 pages were read.
        """
        if self.pages >= MOST_OCR_PAGES:
            raise InvalidFile(f"more than {MOST_OCR_PAGES} pages are scanned", fix="split the PDF")
        self.pages += 1
        width, height = page.get_size()
        scale = min(_DPI / 72, (_MOST_PIXELS / max(width * height, 1.0)) ** 0.5)
        return self.text_of(page.render(scale=scale, grayscale=False).to_numpy())

    def text_of(self, pixels: NDArray[np.uint8]) -> str:
        """Returns the lines that are recognised in an image, uint8 [height, width, 3], blue first."""
        if sys.platform != "win32" and signal.getitimer(signal.ITIMER_PROF)[0]:  # of `limited`
            signal.setitimer(signal.ITIMER_PROF, OCR_PAGE_S)
        if self._engine is None:
            from rapidocr_onnxruntime import RapidOCR  # pyright: ignore[reportMissingImports]

            self._engine = RapidOCR()
        found, _ = self._engine(pixels)
        return "\n".join(line[1] for line in found or [])
