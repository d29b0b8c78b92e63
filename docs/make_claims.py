"""Write the table of claims into docs/claims.md, from the claims themselves."""

from pathlib import Path

from marks import between

from dynamics.claims import CLAIMS
from dynamics.claims.base import Claim

PAGE = Path(__file__).resolve().parent / "claims.md"


def table() -> str:
    """Return a row for each claim: what it says, its source, its rules with their thresholds, what it takes."""
    head = "| id | claim | source | measured | supported where | takes |\n|---|---|---|---|---|---|\n"
    return head + "".join(map(_row, CLAIMS))


def _row(claim: Claim) -> str:
    roles = {"needed": "", "where measured": " *where measured*", "control": " *control*"}
    rules = "<br>".join(f"{rule.rule}{roles[rule.role]} ({rule.threshold.why})" for rule in claim.criteria)
    opposes = f" Opposes {', '.join(claim.opposes)}." if claim.opposes else ""
    note = f" {claim.note}" if claim.note else ""
    cells = (claim.id, f"{claim.statement}{opposes}", claim.source, claim.quantity + "." + note, rules, claim.needs)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def page() -> str:
    """Return the page with the table as it is now."""
    return between(PAGE.read_text(), "claims", table())


if __name__ == "__main__":
    PAGE.write_text(page())
