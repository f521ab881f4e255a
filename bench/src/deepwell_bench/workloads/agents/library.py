"""Fixtures and tasks to develop on: a town library, of which nothing is in the held-out fixtures."""

from __future__ import annotations

from typing import Final

from deepwell_bench.workloads.agents.task import Fixtures, Language, Table, Task

__all__ = ["LIBRARY", "LIBRARY_TASKS"]

_BOOKS: Final = [  # title, genre, pages, year
    ("River of Glass", "fiction", 312, 2004),
    ("The Salt Road", "travel", 268, 2011),
    ("Small Engines", "science", 421, 2018),
    ("A Map of Rain", "poetry", 96, 1999),
    ("Nine Bridges", "fiction", 377, 2015),
    ("Owls at Noon", "fiction", 254, 2009),
    ("Deep Soil", "science", 338, 2020),
    ("海边的灯塔", "小说", 286, 2007),
    ("山中日记", "游记", 214, 2013),
    ("星空入门", "科学", 352, 2019),
    ("风的声音", "诗歌", 118, 2001),
    ("老街往事", "小说", 405, 2016),
]
_MEMBERS: Final = [
    (number, f"M-{400 + 13 * number}", ("north", "south", "hill")[number % 3]) for number in range(1, 31)
]
_LOANS: Final = [
    (
        number,
        1 + number * 7 % 30,
        1 + number * 5 % 12,
        3 + number * 11 % 26,
        ("returned", "late", "out")[number * number % 3],
    )
    for number in range(1, 151)
]
_FILES: Final = {
    "rooms/reading-room.txt": "Room: reading room\nSeats: 64\nLamp code: 5521\nCleaned: daily\n",
    "rooms/music-room.txt": "Room: music room\nSeats: 22\nLamp code: 8173\nCleaned: weekly\n",
    "rooms/map-room.txt": "Room: map room\nSeats: 18\nLamp code: 3946\nCleaned: weekly\n",
    "房间/儿童室.txt": "房间：儿童室\n座位：37\n灯光代码：7215\n",
    "房间/自习室.txt": "房间：自习室\n座位：85\n灯光代码：4602\n",
    "events/spring.txt": "Event: book market\nVisitors: 540\nIncome: 3275 euros\nExpenses: 1890 euros\n",
    "events/autumn.txt": "Event: night of stories\nVisitors: 215\nIncome: 1640 euros\nExpenses: 985 euros\n",
    "活动/春季.txt": "活动：旧书市集\n参加人数：460\n收入：8250 元\n支出：5475 元\n",
    "活动/秋季.txt": "活动：朗读之夜\n参加人数：195\n收入：2640 元\n支出：1985 元\n",
    "shelves/a.csv": "genre,books\nfiction,412\npoetry,87\ntravel,156\n",
    "shelves/b.csv": "genre,books\nscience,238\nhistory,319\nmusic,74\n",
    "书架/甲.csv": "类别,册数\n小说,526\n诗歌,93\n游记,148\n",
    "letters/may.txt": "Letter of May\nThe roof above the archive leaks.\nPlease send someone.\n",
    "letters/june.txt": "Letter of June\nThe elevator stands still.\nPlease send someone.\n",
    "来信/七月.txt": "七月来信\n门口的自行车棚太小。\n",
    "来信/八月.txt": "八月来信\n饮水机没有热水。\n",
}
_DOCUMENTS: Final = {
    "loans.txt": "A member may borrow up to 14 books at once. A loan lasts 26 days.",
    "fines.txt": "A book that comes back late costs a fine of 0.35 euros for each day.",
    "copies.txt": "A copy in colour costs 0.28 euros a page.",
    "rooms.txt": "The music room may be rented for 17 euros an hour.",
    "cards.txt": "A new library card costs 12 euros and is valid for 36 months.",
    "借阅.txt": "每位读者最多可借 16 本书，借期 32 天。",
    "罚款.txt": "逾期的图书每天罚款 0.6 元。",
    "复印.txt": "彩色复印每页 1.5 元。",
    "租用.txt": "会议室租金为每小时 85 元。",
    "办证.txt": "新办借书证收费 25 元，有效期 48 个月。",
}

LIBRARY: Final = Fixtures(
    _FILES,
    [
        Table(
            "books",
            (
                ("id", "INTEGER PRIMARY KEY"),
                ("title", "TEXT"),
                ("genre", "TEXT"),
                ("pages", "INTEGER"),
                ("year", "INTEGER"),
            ),
            tuple((number, *one) for number, one in enumerate(_BOOKS, start=1)),
        ),
        Table(
            "members",
            (("id", "INTEGER PRIMARY KEY"), ("card", "TEXT"), ("district", "TEXT")),
            tuple(_MEMBERS),
        ),
        Table(
            "loans",
            (
                ("id", "INTEGER PRIMARY KEY"),
                ("member_id", "INTEGER REFERENCES members(id)"),
                ("book_id", "INTEGER REFERENCES books(id)"),
                ("days", "INTEGER"),
                ("state", "TEXT"),
            ),
            tuple(_LOANS),
        ),
    ],
    _DOCUMENTS,
)
"""Files, tables and documents to develop on."""


def _days_of(title: str) -> int:
    book = 1 + [one[0] for one in _BOOKS].index(title)
    return sum(one[3] for one in _LOANS if one[2] == book)


def _loans(state: str, days: int) -> int:
    return sum(one[4] == state and one[3] < days for one in _LOANS)


_letters: Final = ("letters/may.txt", "letters/june.txt", "来信/七月.txt", "来信/八月.txt")
# language, calls, question, and a number or a text as the answer
_ROWS: Final[list[tuple[Language, int, str, float | str]]] = [
    ("en", 1, "Compute 38 * 147 - 912.", 38 * 147 - 912),
    ("en", 1, "A ticket costs 7.85 euros. How many euros do 36 tickets cost?", 7.85 * 36),
    ("zh", 1, "请计算：(645 + 287) × 14 等于多少？", (645 + 287) * 14),
    ("en", 1, "What do the library's rules say: how many books may a member borrow at once?", 14),
    ("en", 1, "For how many months is a new library card valid? The rules of the library say it.", 36),
    ("zh", 1, "图书馆的规定里，借期是多少天？", 32),
    ("en", 1, "Tell me the lamp code that stands in rooms/map-room.txt.", 3946),
    ("zh", 1, "请告诉我 房间/自习室.txt 里的灯光代码。", 4602),
    ("en", 1, "In which file does somebody write about the elevator? Give its path.", "letters/june.txt"),
    ("zh", 1, "哪个文件里写到了自行车棚？给出路径。", "来信/七月.txt"),
    ("en", 2, "How many books in the database have the genre fiction and more than 300 pages?", 2),
    (
        "en",
        2,
        "How many loans of the database are in the state late and lasted fewer than 15 days?",
        _loans("late", 15),
    ),
    ("zh", 2, "数据库里状态为 returned 且天数小于 20 的借阅有多少条？", _loans("returned", 20)),
    (
        "en",
        2,
        "How many days was the book Small Engines lent in total, over all its loans?",
        _days_of("Small Engines"),
    ),
    ("zh", 2, "《老街往事》所有借阅的天数加起来是多少？", _days_of("老街往事")),
    ("en", 2, "Add up the numbers of books in shelves/b.csv.", 238 + 319 + 74),
    ("zh", 2, "把 书架/甲.csv 里的册数全部加起来是多少？", 526 + 93 + 148),
    ("en", 2, "A book came back 23 days late. How many euros is the fine by the rules?", 23 * 0.35),
    ("zh", 2, "按规定，租用会议室 7 个小时要多少元？", 595),
    ("en", 2, "By the rules of the library, what do 64 pages of colour copies cost in euros?", 64 * 0.28),
    (
        "en",
        3,
        "Take the number of pages of the book Deep Soil in the database. How many hours does it take at 26 pages an hour?",
        13,
    ),
    ("zh", 3, "数据库中《星空入门》的页数乘以 17 是多少？", 352 * 17),
    ("en", 3, "Some file describes the book market. What was its income less its expenses?", 3275 - 1890),
    ("zh", 3, "有一个文件介绍朗读之夜。它的收入减去支出是多少元？", 2640 - 1985),
    ("en", 3, "Read rooms/reading-room.txt and rooms/music-room.txt. How many seats are there in both?", 86),
    ("zh", 3, "房间/儿童室.txt 和 房间/自习室.txt 两个房间一共有多少个座位？", 122),
    ("en", 3, "How many more visitors had events/spring.txt than events/autumn.txt?", 325),
    (
        "en",
        3,
        "events/autumn.txt tells how many visitors came. What would a colour copy of one page for each cost by the rules?",
        215 * 0.28,
    ),
    ("zh", 3, "活动/春季.txt 里有参加人数。按规定给每人彩色复印一页，一共要多少元？", 690),
    (
        "zh",
        3,
        "数据库中 genre 为 小说 的书一共多少页？按规定彩色复印这些页要多少元？请回答金额。",
        (286 + 405) * 1.5,
    ),
]

LIBRARY_TASKS: Final = [
    Task(
        f"development-{number:02}",
        f"{calls} calls",
        language,
        calls,
        question,
        number=None if isinstance(answer, str) else answer,
        text=answer if isinstance(answer, str) else "",
        others=tuple(one for one in _letters if one != answer) if isinstance(answer, str) else (),
    )
    for number, (language, calls, question, answer) in enumerate(_ROWS)
]
"""Thirty tasks that need 1 to 3 calls."""
