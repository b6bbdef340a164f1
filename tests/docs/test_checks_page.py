"""The page of checks says what the kit does."""

from pathlib import Path

from exapt.testing import CHECKS

PAGE = (Path(__file__).parents[2] / "docs/reference/checks.md").read_text(encoding="utf-8")


def test_the_page_lists_every_check_in_order_with_its_promise_and_its_fault():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{check.name}` | {check.promise} | {check.guards} |" for checks in CHECKS.values() for check in checks
    ]
