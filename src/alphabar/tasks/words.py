"""Numbers as a person says them."""

from __future__ import annotations


def counted(n: int, thing: str) -> str:
    """'1 picture', '2 pictures'."""
    return f"{n} {thing}" + "s" * (n != 1)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 3 min, 2 h 5 min, 3 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{seconds / 86400:.1f} days"
