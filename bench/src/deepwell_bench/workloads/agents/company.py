"""The held-out fixtures: a wholesaler of furniture with an office in two languages. Its tasks are frozen."""

from __future__ import annotations

import random
from typing import Final

from deepwell_bench.workloads.agents.task import Fixtures, Language, Table

__all__ = [
    "ACCOUNTS",
    "ARTICLES",
    "CODEWORDS",
    "COMPANY",
    "DISCOUNTS",
    "OFFICES",
    "ORDERS",
    "PROJECTS",
    "RATES",
    "REGIONS",
    "RULES",
    "STOCKS",
]

_SEED: Final = 20261128

# Accounts: name, city, level.
ACCOUNTS: Final[dict[Language, list[tuple[str, str, str]]]] = {
    "en": [
        ("Harbor Books", "Lisbon", "gold"),
        ("Blue Heron Cafe", "Porto", "silver"),
        ("Oakline Interiors", "Lyon", "bronze"),
        ("Quill and Ink", "Lisbon", "silver"),
        ("Northwind Bikes", "Ghent", "gold"),
        ("Sunset Clinic", "Porto", "bronze"),
    ],
    "zh": [
        ("晨光贸易", "上海", "金牌"),
        ("青松书店", "杭州", "银牌"),
        ("远山茶业", "成都", "铜牌"),
        ("海蓝科技", "上海", "银牌"),
        ("金穗食品", "杭州", "金牌"),
        ("竹影酒店", "成都", "铜牌"),
    ],
}
ARTICLES: Final[dict[Language, list[tuple[str, float]]]] = {
    "en": [
        ("Desk Lamp", 34.9),
        ("Office Chair", 189.5),
        ("Standing Desk", 428.0),
        ("Paper Box", 12.75),
        ("Whiteboard", 96.4),
        ("Monitor Arm", 73.25),
    ],
    "zh": [
        ("护眼台灯", 158.5),
        ("人体工学椅", 869.0),
        ("文件柜", 436.8),
        ("复印纸", 24.5),
        ("白板", 215.6),
        ("机械键盘", 327.0),
    ],
}
DISCOUNTS: Final[dict[str, int]] = {"gold": 9, "silver": 6, "bronze": 2, "金牌": 12, "银牌": 7, "铜牌": 3}

# Rules of the handbook: document, sentence with {value}, value, question.
RULES: Final[dict[Language, list[tuple[str, str, int, str]]]] = {
    "en": [
        (
            "leave.txt",
            "Employees who have been with us for five years have {value} days of annual leave.",
            28,
            "How many days of annual leave does an employee have after five years?",
        ),
        (
            "remote-work.txt",
            "Staff may work from home on up to {value} days a month, if the team lead agrees.",
            11,
            "On how many days a month may staff work from home?",
        ),
        (
            "warranty.txt",
            "Office chairs carry a warranty of {value} months from the day of delivery.",
            42,
            "How many months of warranty do office chairs carry?",
        ),
        (
            "returns.txt",
            "Customers may return unused goods within {value} days. The shipping label is free.",
            45,
            "Within how many days may customers return unused goods?",
        ),
        (
            "hotels.txt",
            "A hotel on a business trip may cost up to {value} euros a night, breakfast included.",
            135,
            "How many euros may a hotel cost per night on a business trip?",
        ),
    ],
    "zh": [
        ("年假.txt", "工作满五年的员工每年有 {value} 天年假。", 13, "工作满五年的员工每年有多少天年假？"),
        (
            "加班.txt",
            "工作日加班超过三小时，可报销餐费 {value} 元。",
            38,
            "工作日加班超过三小时可以报销多少元餐费？",
        ),
        ("保修.txt", "文件柜自交货之日起保修 {value} 个月。", 36, "文件柜保修多少个月？"),
        (
            "退货.txt",
            "未使用的商品可以在 {value} 天内退货，运费由我们承担。",
            18,
            "未使用的商品可以在多少天内退货？",
        ),
        ("住宿.txt", "出差住宿每晚不超过 {value} 元，含早餐。", 420, "出差住宿每晚最多多少元？"),
    ],
}
# Rates of the handbook: document, sentence with {value}, value, unit.
RATES: Final[dict[Language, list[tuple[str, str, float, str]]]] = {
    "en": [
        (
            "travel-by-car.txt",
            "A trip in a private car is paid at {value} euros for each kilometre.",
            0.43,
            "A trip in a private car was {amount} kilometres long. How many euros does the handbook pay for it?",
        ),
        (
            "shipping.txt",
            "Shipping by courier costs {value} euros for each kilogram, whatever the distance.",
            1.85,
            "By the handbook's rate, how many euros does it cost to ship {amount} kilograms by courier?",
        ),
        (
            "storage.txt",
            "Storing a pallet in the warehouse costs {value} euros a day.",
            2.65,
            "By the handbook's rate, how many euros does it cost to store a pallet for {amount} days?",
        ),
    ],
    "zh": [
        (
            "私家车.txt",
            "私家车出差按每公里 {value} 元报销。",
            1.35,
            "私家车出差开了 {amount} 公里，按手册可以报销多少元？",
        ),
        (
            "快递.txt",
            "快递运费为每公斤 {value} 元，不分远近。",
            6.5,
            "按手册的运费，快递 {amount} 公斤货物要多少元？",
        ),
        (
            "仓储.txt",
            "仓库存放一个托盘每天收费 {value} 元。",
            4.8,
            "按手册的收费，一个托盘在仓库存放 {amount} 天要多少元？",
        ),
    ],
}
OFFICES: Final[dict[Language, list[tuple[str, int, int]]]] = {  # name, door code, seats
    "en": [
        ("lisbon", 7731, 24),
        ("porto", 4058, 17),
        ("ghent", 9264, 31),
        ("lyon", 3187, 12),
        ("turin", 6415, 20),
    ],
    "zh": [
        ("上海", 6842, 45),
        ("杭州", 2975, 28),
        ("成都", 5316, 33),
        ("深圳", 8409, 52),
        ("西安", 1694, 26),
    ],
}
PROJECTS: Final[dict[Language, list[tuple[str, int, int]]]] = {  # name, budget, spent
    "en": [
        ("amber", 48500, 31275),
        ("birch", 26400, 9830),
        ("cobalt", 73200, 58415),
        ("delta", 15900, 12645),
        ("ember", 39750, 27310),
    ],
    "zh": [
        ("白鹭", 186000, 97350),
        ("长风", 254000, 183620),
        ("启明", 92000, 41780),
        ("流云", 137500, 88945),
        ("星河", 318000, 276410),
    ],
}
CODEWORDS: Final[
    dict[Language, list[tuple[str, str]]]
] = {  # minutes of a meeting, subject that only they have
    "en": [
        ("minutes/monday.txt", "forklift"),
        ("minutes/tuesday.txt", "parking permits"),
        ("minutes/wednesday.txt", "fire drill"),
        ("minutes/thursday.txt", "coffee machine"),
        ("minutes/friday.txt", "solar panels"),
    ],
    "zh": [
        ("会议/周一.txt", "叉车"),
        ("会议/周二.txt", "停车证"),
        ("会议/周三.txt", "消防演练"),
        ("会议/周四.txt", "咖啡机"),
        ("会议/周五.txt", "太阳能板"),
    ],
}
STOCKS: Final[dict[Language, list[str]]] = {"en": ["east", "west", "north"], "zh": ["东仓", "西仓", "北仓"]}
REGIONS: Final[dict[Language, list[tuple[str, int, int]]]] = {  # region, revenue, costs
    "en": [
        ("alpine", 18250, 9120),
        ("baltic", 27340, 15480),
        ("coastal", 33910, 21675),
        ("danube", 12480, 8350),
        ("iberian", 41265, 26930),
    ],
    "zh": [
        ("华东", 182500, 97300),
        ("华南", 264300, 171850),
        ("华北", 143700, 88420),
        ("西南", 98600, 61240),
        ("东北", 75400, 52910),
    ],
}


def _orders() -> list[tuple[int, int, int, int, str]]:
    """Returns orders: id, account, article, quantity and status."""
    drawn = random.Random(_SEED)  # noqa: S311
    found = list[tuple[int, int, int, int, str]]()
    for number in range(1, 241):
        side = drawn.randrange(2)  # an account buys articles of its own language
        account, article = 1 + 6 * side + drawn.randrange(6), 1 + 6 * side + drawn.randrange(6)
        status = ("paid", "paid", "paid", "open", "cancelled")[drawn.randrange(5)]
        found.append((1000 + number, account, article, 1 + drawn.randrange(40), status))
    return found


ORDERS: Final = _orders()
_BOTH: Final[tuple[Language, ...]] = ("en", "zh")


def stock_of(language: Language, store: str) -> list[tuple[str, int]]:
    """Returns the articles of a store room with their numbers."""
    drawn = random.Random(f"{_SEED}/{store}")  # noqa: S311
    return [(name, 15 + drawn.randrange(180)) for name, _ in ARTICLES[language]]


def _files(language: Language) -> dict[str, str]:
    zh = language == "zh"
    found = dict[str, str]()
    for name, code, seats in OFFICES[language]:
        if zh:
            found[f"办公室/{name}.txt"] = (
                f"办公室：{name}\n门禁码：{code}\n座位数：{seats}\n开放时间：8 点到 19 点\n"
            )
        else:
            found[f"offices/{name}.txt"] = (
                f"Office: {name.title()}\nDoor code: {code}\nSeats: {seats}\nOpen: 8 to 19 h\n"
            )
    for name, budget, spent in PROJECTS[language]:
        if zh:
            found[f"项目/{name}.txt"] = f"项目：{name}\n预算：{budget} 元\n已支出：{spent} 元\n状态：进行中\n"
        else:
            found[f"projects/{name}.txt"] = (
                f"Project: {name.title()}\nBudget: {budget} euros\nSpent: {spent} euros\nState: running\n"
            )
    for path, subject in CODEWORDS[language]:
        found[path] = (
            f"会议纪要\n一、上周工作回顾\n二、讨论{subject}的安排\n三、下周计划\n"
            if zh
            else f"Minutes\n1. Review of last week\n2. Discussion of the {subject}\n3. Plan for next week\n"
        )
    for store in STOCKS[language]:
        rows = "".join(f"{name},{count}\n" for name, count in stock_of(language, store))
        found[f"{'库存' if zh else 'stock'}/{store}.csv"] = (
            f"{'品名,数量' if zh else 'article,pieces'}\n{rows}"
        )
    for name, revenue, costs in REGIONS[language]:
        if zh:
            found[f"报告/{name}.txt"] = f"大区：{name}\n收入：{revenue} 元\n成本：{costs} 元\n"
        else:
            found[f"reports/{name}.txt"] = (
                f"Region: {name.title()}\nRevenue: {revenue} euros\nCosts: {costs} euros\n"
            )
    return found | _requests(language) | _archive(language)


def _requests(language: Language) -> dict[str, str]:
    """Returns requests of accounts for a number of pieces of an article."""
    found = dict[str, str]()
    for number, account, article, pieces in requests_of(language):
        if language == "zh":
            found[f"申请/{number}.txt"] = (
                f"申请编号：{number}\n客户：{account}\n商品：{article}\n数量：{pieces}\n"
            )
        else:
            found[f"requests/{number}.txt"] = (
                f"Request: {number}\nCustomer: {account}\nArticle: {article}\nPieces: {pieces}\n"
            )
    return found


def requests_of(language: Language) -> list[tuple[str, str, str, int]]:
    """Returns the requests: number, account, article and pieces."""
    drawn = random.Random(f"{_SEED}/requests/{language}")  # noqa: S311
    start = 114 if language == "en" else 731
    return [
        (
            f"R-{start + 7 * place}",
            ACCOUNTS[language][place % 6][0],
            ARTICLES[language][(2 * place + 1) % 6][0],
            12 + drawn.randrange(60),
        )
        for place in range(6)
    ]


def archive_of(language: Language) -> list[tuple[str, str, str, int]]:
    """Returns cases that were moved twice: name, second file, last file and figure."""
    drawn = random.Random(f"{_SEED}/archive/{language}")  # noqa: S311
    names = (
        ("alder", "beech", "cedar", "fir", "maple") if language == "en" else ("甲", "乙", "丙", "丁", "戊")
    )
    folder = "archive" if language == "en" else "归档"
    found = list[tuple[str, str, str, int]]()
    for place, name in enumerate(names):
        second, last = f"{folder}/k{31 + 4 * place}.txt", f"{folder}/z{62 + 3 * place}.txt"
        found.append((name, second, last, 2400 + drawn.randrange(5000)))
    return found


def _archive(language: Language) -> dict[str, str]:
    found = dict[str, str]()
    for name, second, last, figure in archive_of(language):
        if language == "zh":
            found[f"归档/案卷{name}.txt"] = f"案卷{name}已移到 {second}\n"
            found[second] = f"数据已移到 {last}\n"
            found[last] = f"案卷：{name}\n最终金额：{figure} 元\n"
        else:
            found[f"archive/case-{name}.txt"] = f"Case {name} was moved to {second}\n"
            found[second] = f"The figures were moved to {last}\n"
            found[last] = f"Case: {name}\nFinal amount: {figure} euros\n"
    return found


def _documents(language: Language) -> dict[str, str]:
    found = dict[str, str]()
    for name, sentence, value, _ in RULES[language]:
        found[name] = sentence.format(value=value)
    for name, sentence, rate, _ in RATES[language]:
        found[name] = sentence.format(value=rate)
    for level in ("gold", "silver", "bronze") if language == "en" else ("金牌", "银牌", "铜牌"):
        found[f"{level}.txt"] = (
            f"Customers of the level {level} get a discount of {DISCOUNTS[level]} % on all orders."
            if language == "en"
            else f"{level}客户的所有订单享受 {DISCOUNTS[level]}% 的折扣。"
        )
    return found


def _tables() -> list[Table]:
    accounts = [*ACCOUNTS["en"], *ACCOUNTS["zh"]]
    articles = [*ARTICLES["en"], *ARTICLES["zh"]]
    return [
        Table(
            "customers",
            (("id", "INTEGER PRIMARY KEY"), ("name", "TEXT"), ("city", "TEXT"), ("level", "TEXT")),
            tuple((number, *one) for number, one in enumerate(accounts, start=1)),
        ),
        Table(
            "products",
            (("id", "INTEGER PRIMARY KEY"), ("name", "TEXT"), ("price", "REAL")),
            tuple((number, *one) for number, one in enumerate(articles, start=1)),
        ),
        Table(
            "orders",
            (
                ("id", "INTEGER PRIMARY KEY"),
                ("customer_id", "INTEGER REFERENCES customers(id)"),
                ("product_id", "INTEGER REFERENCES products(id)"),
                ("quantity", "INTEGER"),
                ("status", "TEXT"),
            ),
            tuple(ORDERS),
        ),
    ]


COMPANY: Final = Fixtures(
    {path: text for language in _BOTH for path, text in _files(language).items()},
    _tables(),
    {name: text for language in _BOTH for name, text in _documents(language).items()},
)
"""Files, tables and documents of the held-out tasks."""
