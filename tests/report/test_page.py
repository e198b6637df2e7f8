"""fedgru/report/page.py: whole HTML of the page's parts, texts escaped."""

import pytest

from fedgru.report import page

HOSTILE = "<b> & \"'"
ESCAPED = "&lt;b&gt; &amp; &#34;&#39;"


def test_a_table():
    found = page.table(["who", "a<b"], [["x & y", "1.5"], [None, None]], "Some 'rows'", width=3)
    assert found == (
        '<div class="box width-3"><p class="caption">Some &#39;rows&#39;</p>\n'
        '<div class="scroll" tabindex="0" role="region" aria-label="Some &#39;rows&#39;">\n'
        '<table>\n<thead><tr><th>who</th><th class="n">a&lt;b</th></tr></thead>\n'
        '<tbody>\n<tr><td>x &amp; y</td><td class="n">1.5</td></tr>\n'
        '<tr><td>–</td><td class="n">–</td></tr>\n</tbody></table></div></div>'
    )


def test_a_row_of_other_length_is_refused():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        page.table(["one"], [["1", "2"]], "caption")


def test_tiles_and_small_parts():
    assert page.paragraph(HOSTILE) == f"<p>{ESCAPED}</p>"
    assert page.command(HOSTILE) == f"<pre><code>{ESCAPED}</code></pre>"
    assert page.tiles(1, [("a", HOSTILE, "c"), ("d", "e", "f")]) == (
        f'<dl class="tiles"><div class="tile run-1"><dt>a</dt><dd>{ESCAPED}<small>c</small></dd>'
        '</div><div class="tile run-1"><dt>d</dt><dd>e<small>f</small></dd></div></dl>'
    )
    boxes = page.grid(page.paragraph("a"), page.paragraph("b"))
    assert boxes == '<div class="grid">\n<p>a</p>\n<p>b</p>\n</div>'


def test_what_no_function_of_the_page_made_is_escaped():
    assert page.stack(page.paragraph("a"), "<p>b</p>") == "<p>a</p>\n&lt;p&gt;b&lt;/p&gt;"
    assert page.grid("<p>b</p>") == '<div class="grid">\n&lt;p&gt;b&lt;/p&gt;\n</div>'


def test_a_whole_page():
    sections = [
        page.Section("first", f"First {HOSTILE}", page.paragraph("one")),
        page.Section("second", "Second", page.paragraph("two")),
    ]
    found = page.page(HOSTILE, page.paragraph("head"), sections, f"foot {HOSTILE}")
    before, _, rest = found.partition("<style>\n")
    css, _, body = rest.partition("\n</style>\n")
    assert before.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n')
    assert before.endswith(f"<title>{ESCAPED}</title>\n")
    assert "&" not in css and "{" in css  # not escaped
    assert body == (
        f"</head>\n<body>\n<header>\n<h1>{ESCAPED}</h1>\n<p>head</p>\n</header>\n"
        f'<nav aria-label="Contents"><ol>\n<li><a href="#first">First {ESCAPED}</a></li>\n'
        '<li><a href="#second">Second</a></li>\n</ol></nav>\n<main>\n'
        f'<section id="first">\n<h2>First {ESCAPED}</h2>\n<p>one</p>\n</section>\n'
        '<section id="second">\n<h2>Second</h2>\n<p>two</p>\n</section>\n</main>\n'
        f"<footer><p>foot {ESCAPED}</p></footer>\n</body>\n</html>\n"
    )
