"""Makes the five tables of the example: `python examples/data-analysis/make_data.py [FOLDER]`.

A shop with customers, products and orders (CSV), and its employees and tickets (SQLite). Names of columns and values are
English or Chinese, as in tables that grew over years. The seed is fixed: the same tables every time. All people are made up.
"""

from __future__ import annotations

import csv
import random
import sqlite3
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CITIES = ("北京", "上海", "广州", "深圳", "杭州", "成都")
SURNAMES, GIVEN = "王李张刘陈杨赵黄周吴", "伟芳娜敏静丽强磊军洋艳勇杰涛明"
PRODUCTS = (
    ("Kettle 1.7L", "厨房", "Meiya", 129.0),
    ("Rice Cooker", "厨房", "Meiya", 399.0),
    ("Frying Pan", "厨房", "Suhe", 159.0),
    ("Knife Set", "厨房", "Suhe", 219.0),
    ("Desk Lamp", "家居", "Lumin", 89.0),
    ("Pillow", "家居", "Ruian", 69.0),
    ("Curtain", "家居", "Ruian", 199.0),
    ("Bookshelf", "家居", "Lumin", 459.0),
    ("Earbuds", "电子", "Tongxin", 299.0),
    ("Power Bank", "电子", "Tongxin", 149.0),
    ("Keyboard", "电子", "Tongxin", 349.0),
    ("Webcam", "电子", "Lumin", 259.0),
    ("Yoga Mat", "运动", "Ruian", 79.0),
    ("Dumbbells", "运动", "Suhe", 189.0),
    ("Tennis Racket", "运动", "Suhe", 529.0),
    ("Rope", "运动", "Ruian", 29.0),
)
DEPARTMENTS = ("Sales", "Support", "Warehouse", "Finance")
TITLES = ("经理", "专员", "主管")


def _names(random_: random.Random, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        name = random_.choice(SURNAMES) + "".join(
            random_.choice(GIVEN) for _ in range(random_.choice((1, 2)))
        )
        if name not in found:
            found.append(name)
    return found


def _day(random_: random.Random, first: date, days: int) -> str:
    return (first + timedelta(days=random_.randrange(days))).isoformat()


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make(folder: Path) -> None:
    """Writes customers.csv, products.csv, orders.csv and company.db (employees, tickets)."""
    folder.mkdir(parents=True, exist_ok=True)
    random_ = random.Random(20240607)  # noqa: S311
    customers = [
        (
            number,
            name,
            random_.choice(CITIES),
            random_.choice(("男", "女")),
            random_.choice(("gold", "silver", "silver", "bronze", "bronze", "bronze")),
            _day(random_, date(2021, 1, 1), 1000),
            random_.randrange(1955, 2006),
            random_.choice(("newsletter", "friend", "search", "ad")),
        )
        for number, name in enumerate(_names(random_, 120), 1)
    ]
    header = ("customer_id", "姓名", "城市", "性别", "member_level", "signup_date", "birth_year", "source")
    _write_csv(folder / "customers.csv", header, customers)
    products = [
        (
            100 + number,
            name,
            category,
            supplier,
            price,
            round(price * random_.uniform(0.4, 0.7), 2),
            random_.choice((0, 5, 12, 30, 48, 75, 120)),
            _day(random_, date(2022, 1, 1), 600),
        )
        for number, (name, category, supplier, price) in enumerate(PRODUCTS, 1)
    ]
    header = ("product_id", "product_name", "类别", "supplier", "unit_price", "成本", "stock", "上架日期")
    _write_csv(folder / "products.csv", header, products)
    orders = []
    for number in range(1, 601):
        product = random_.choice(products)
        customer = random_.choice(customers)
        quantity = random_.choice((1, 1, 1, 2, 2, 3, 5))
        discount = random_.choice((0.0, 0.0, 0.0, 0.05, 0.1, 0.2))
        orders.append(
            (
                5000 + number,
                customer[0],
                product[0],
                quantity,
                round(product[4] * quantity * (1 - discount), 2),
                discount,
                _day(random_, date(2023, 1, 1), 540),
                random_.choice(("已完成", "已完成", "已完成", "已完成", "已取消", "待发货", "退货")),
                random_.choice(("app", "app", "web", "门店")),
            )
        )
    header = (
        "order_id",
        "customer_id",
        "product_id",
        "数量",
        "amount",
        "discount",
        "order_date",
        "状态",
        "渠道",
    )
    _write_csv(folder / "orders.csv", header, orders)
    _company(folder / "company.db", random_, len(customers))


def _company(path: Path, random_: random.Random, customers: int) -> None:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE employees (emp_id INTEGER PRIMARY KEY, 员工姓名 TEXT, department TEXT, 职位 TEXT, salary INTEGER,"
        " hire_date TEXT, office TEXT)"
    )
    connection.execute(
        "CREATE TABLE tickets (ticket_id INTEGER PRIMARY KEY, customer_id INTEGER, emp_id INTEGER REFERENCES employees(emp_id),"
        " opened_at TEXT, closed_at TEXT, 类型 TEXT, priority TEXT, rating INTEGER)"
    )
    staff = [
        (
            number,
            name,
            random_.choice(DEPARTMENTS),
            random_.choices(TITLES, (1, 4, 2))[0],
            random_.randrange(60, 300) * 100,
            _day(random_, date(2015, 1, 1), 3000),
            random_.choice(("北京", "上海", "深圳")),
        )
        for number, name in enumerate(_names(random_, 40), 1)
    ]
    connection.executemany("INSERT INTO employees VALUES (?, ?, ?, ?, ?, ?, ?)", staff)
    support = [one[0] for one in staff if one[2] == "Support"]
    for number in range(1, 181):
        opened = _day(random_, date(2023, 1, 1), 540)
        closed = (date.fromisoformat(opened) + timedelta(days=random_.randrange(15))).isoformat()
        row = (
            number,
            random_.randrange(1, customers + 1),
            random_.choice(support),
            opened,
            closed if random_.random() < 0.85 else None,
            random_.choice(("退款", "物流", "质量", "咨询")),
            random_.choice(("high", "normal", "normal", "low")),
            random_.choice((1, 2, 3, 4, 4, 5, 5, None)),
        )
        connection.execute("INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "data")
