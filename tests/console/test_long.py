"""Long conversations: what is in view is drawn, and nothing else."""

from __future__ import annotations

from playwright.sync_api import expect
from tests.console.browser import Open
from tests.console.stored import conversation, message, store
from tests.console.talk import ask

MANY = 10_000
MOST_DRAWN = 60


def test_ten_thousand_messages_are_read_by_scrolling(open_tab: Open) -> None:
    console = open_tab()
    page = console.open()
    messages = [
        message("c", n, "assistant" if n % 2 else "user", f"message {n}\n\n" + "- a line\n" * (n % 7))
        for n in range(MANY)
    ]
    store(page, [conversation("c", "long", messages[-1]["id"])], messages)
    page.goto(f"{console.url}/#/chat/c")
    expect(page.locator(f".thread-row[aria-posinset='{MANY}']")).to_be_in_viewport()
    thread = page.locator(".thread")
    rows = page.locator(".thread-row")
    assert rows.count() <= MOST_DRAWN
    thread.press("Home")
    expect(page.locator(".thread-row[aria-posinset='1']")).to_contain_text("message 0")
    assert rows.count() <= MOST_DRAWN
    thread.evaluate("(one) => one.scrollTo(0, one.scrollHeight / 2)")
    page.wait_for_function(
        "([low, high]) => { const first = +document.querySelector('.thread-row').ariaPosInSet;"
        " return low < first && first < high; }",
        arg=[MANY / 3, MANY * 2 / 3],
    )
    assert rows.count() <= MOST_DRAWN
    page.get_by_role("button", name="Jump to the newest message").click()
    expect(page.locator(f".thread-row[aria-posinset='{MANY}']")).to_be_in_viewport()


def test_scrolling_up_does_not_jump_while_rows_find_their_heights(open_tab: Open) -> None:
    console = open_tab()
    page = console.open()
    messages = [message("c", n, "user", f"message {n}\n" + "line\n" * (n * 7 % 40)) for n in range(300)]
    store(page, [conversation("c", "uneven", messages[-1]["id"])], messages)
    page.goto(f"{console.url}/#/chat/c")
    thread = page.locator(".thread")
    expect(page.locator(".thread-row[aria-posinset='300']")).to_be_in_viewport()
    thread.hover()
    seen: list[int] = []
    for _ in range(40):
        page.mouse.wheel(0, -200)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen.append(
            page.evaluate(
                "Math.min(...[...document.querySelectorAll('.thread-row')].filter((one) => {"
                "const box = one.getBoundingClientRect(); const frame = one.parentElement.getBoundingClientRect();"
                "return box.bottom > frame.top && box.top < frame.bottom;}).map((one) => +one.ariaPosInSet))"
            )
        )
    assert seen == sorted(seen, reverse=True) and seen[-1] < seen[0]


def test_a_long_answer_stays_in_view_until_somebody_scrolls_up(open_tab: Open) -> None:
    page = open_tab().open()
    text = "\n\n".join(f"Paragraph {n} of a long answer." for n in range(160))
    ask(page, text, turns=2)
    page.wait_for_function(  # the last rows are measured once they are drawn
        "() => { const one = document.querySelector('.thread');"
        " return one.scrollHeight - one.scrollTop - one.clientHeight < 2; }"
    )
    assert page.locator(".markdown .block").count() == 160
    page.locator(".thread").hover()
    page.mouse.wheel(0, -2000)
    expect(page.get_by_role("button", name="Jump to the newest message")).to_be_visible()
