"""Paragraphs of two help pages are paired by their ids."""

from deepwell_bench.workloads.knowledge.libreoffice_help import align, read_pages

ENGLISH = b"""<html><head><title>Borders</title></head><body>
<h1 id="hd_1">Table  Borders</h1>
<p id="par_1">Choose <span class="switchinline"><span hidden="true" class="MAC">Preferences</span><span hidden="true">Tools -
 Options</span></span>.</p>
<div class="embedded"><p id="par_2">Borrowed.</p></div><p id="par_3">Only English.</p><p>No id.</p>
<p id="par_4">SUM</p></body></html>"""

CHINESE = """<html><head><title>边框</title></head><body><h1 id="hd_1">表格边框</h1><p id="par_1">选择工具。</p>
<p id="par_2">借来的。</p><p id="par_4">SUM</p></body></html>""".encode()

OTHER_PAGE = b'<title>T</title><h2 id="hd_9">Home</h2><p id="par_2">Borrowed.</p>'
OTHER_CHINESE = '<title>T</title><h2 id="hd_9">家</h2><p id="par_2">借来的。</p>'.encode()


def test_paragraphs_are_paired_and_untranslated_ones_left_out():
    english = read_pages(iter([("text/a.html", ENGLISH), ("text/b.html", OTHER_PAGE)]))
    chinese = read_pages(iter([("text/a.html", CHINESE), ("text/b.html", OTHER_CHINESE)]))
    passages, aligned = align(english, chinese)
    assert aligned == 6
    assert [(one.english, one.chinese) for one in passages] == [
        ("Table Borders", "表格边框"),
        ("Choose Tools - Options.", "选择工具。"),
        ("Borrowed.", "借来的。"),
        ("Home", "家"),
    ]
    first, second, borrowed, _ = passages
    assert (first.id, first.heading_en, first.title_zh) == ("text/a.html#hd_1", "", "边框")
    assert (second.heading_en, second.heading_zh) == ("Table Borders", "表格边框")
    # It belongs to the page that does not borrow it.
    assert (borrowed.id, borrowed.also) == ("text/b.html#par_2", ("text/a.html#par_2",))
