"""Writes small PDF files by hand."""

from __future__ import annotations

from collections.abc import Sequence

from deepwell_bench.workloads.knowledge.hostile_documents.pdfs import pdf_of

FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def page_of_text(text: str) -> str:
    """Returns a content stream with a line of text for each line."""
    return "".join(
        f"BT /F1 12 Tf 72 {720 - 14 * number} Td ({line}) Tj ET\n"
        for number, line in enumerate(text.split("\n"))
    )


PICTURE = "q 600 0 0 700 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q\n"


def pdf_file(pages: Sequence[str], *, outline: Sequence[tuple[str, int]] = (), title: str = "") -> bytes:
    """Returns a PDF with these content streams, and an outline of titles with their page from 0."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    first = 4 + 2 * len(pages)
    outlines = f"/Outlines {first} 0 R" if outline else ""
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {outlines} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        f"<< /Title ({title}) >>",
    ]
    for number, content in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            f"/Resources << /Font << /F1 {FONT} >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}endstream")
    if outline:
        last = first + len(outline)
        objects.append(f"<< /First {first + 1} 0 R /Last {last} 0 R /Count {len(outline)} >>")
        for number, (name, page) in enumerate(outline, first + 1):
            following = f"/Next {number + 1} 0 R" if number < last else ""
            objects.append(
                f"<< /Title ({name}) /Parent {first} 0 R {following} /Dest [{4 + 2 * page} 0 R /Fit] >>"
            )
    return pdf_of([one.encode("latin-1") for one in objects], b"/Info 3 0 R")
