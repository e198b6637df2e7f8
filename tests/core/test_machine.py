"""fedgru/core/machine.py: what /proc says, worked out by hand."""

import pytest

from fedgru.core import machine


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse2 avx avx2 avx512f avx512_bf16", "AVX-512"),
        ("flags\t\t: fpu sse2 avx avx2 fma", "AVX2"),
        ("flags\t\t: fpu sse2 avx", "AVX"),
        ("flags\t\t: fpu sse2", "SSE2"),
        ("Features\t: fp asimd sve sve2", "SVE2"),
        ("Features\t: fp asimd", "NEON"),
        ("isa\t\t: rv64imafdc", "unknown instructions"),
    ],
)
def test_the_instruction_set_is_the_widest(tmp_path, monkeypatch, line, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: A: B\n{line}\n\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.instruction_set() == expected
    assert machine.describe_machine().startswith(f"A: B with {expected}, ")


def test_the_size_of_the_memory(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:       2048 kB\nMemFree:        1 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert machine.memory_bytes() == 2 * 1024 * 1024
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "nothing")
    assert machine.memory_bytes() is None
