"""Energy from a tree of counters as the kernel has it, and processor time."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.process.energy import EnergyMeter, measured_cost


def zone(
    root: Path, name: str, label: str, energy_uj: int | None = 0, most_uj: int = 262_143_328_850
) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")
    if energy_uj is not None:
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 100)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    meter = EnergyMeter(tmp_path)
    assert (meter.packages, meter.reason) == (2, None)
    with measured_cost(meter) as cost:
        first.write_text("1500000\n")
        second.write_text("5250000\n")
        part.write_text("900000\n")
    assert cost.joules == pytest.approx(0.75)
    assert cost.seconds > 0
    assert cost.cpu_seconds > 0
    assert cost.reason is None


def test_a_counter_that_began_again_counts_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 999_990, most_uj=999_999)
    with measured_cost(EnergyMeter(tmp_path)) as cost:
        counter.write_text("40\n")
    assert cost.joules == pytest.approx(50e-6)


@pytest.mark.parametrize("missing", ["root", "packages", "permission", "later"])
def test_what_cannot_be_read_has_a_reason_and_no_joules(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "powercap"
    counter = tmp_path / "none"
    if missing != "root":
        root.mkdir()
        counter = zone(root, "intel-rapl:0", "dram" if missing == "packages" else "package-0", 3)
    if missing == "permission":
        zone(root, "intel-rapl:1", "package-1", None)
        read = Path.read_text

        def refused(path: Path, *args: object, **kwargs: object) -> str:
            if path == root / "intel-rapl:1" / "energy_uj":
                raise PermissionError(13, "Permission denied")
            return read(path, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "read_text", refused)
    meter = EnergyMeter(root)
    with measured_cost(meter) as cost:
        if missing == "later":
            counter.unlink()
    assert cost.joules is None
    assert cost.reason
    assert ("chmod" in meter.fix) == (missing == "permission")
    assert (meter.packages == 1) == (missing == "later")


@pytest.mark.parametrize(
    ("counter", "most"),
    [("5", "-1"), ("5", "0"), ("-5", "99"), ("100", "99"), ("5", "text"), ("\ufffd", "99")],
)
def test_an_odd_counter_makes_no_joules_and_no_part_of_them(counter: str, most: str, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:1", "package-1", 1).write_text(counter)
    (tmp_path / "intel-rapl:1" / "max_energy_range_uj").write_text(most)
    meter = EnergyMeter(tmp_path)
    with measured_cost(meter) as cost:
        pass
    assert (meter.packages, cost.joules) == (0, None)
    assert cost.reason and "intel-rapl:1" in cost.reason


def test_a_counter_that_turns_odd_makes_no_joules(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 5, most_uj=99)
    with measured_cost(EnergyMeter(tmp_path)) as cost:
        counter.write_text("100")
    assert cost.joules is None and cost.reason
