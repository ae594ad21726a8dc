"""EVIDENCE.md is what the files of results say: the page as it stands, and every claim and case on it."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.parent.name for path in ROOT.glob("tools/*/pyproject.toml"))


def rows_of(text, section):
    """{tool: rows of cells} of the table under `## section`, read as markdown, not as our code writes it."""
    body = re.split(r"^## ", text.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    rows = {}
    for line in body.splitlines():
        if line.startswith("| ") and not line.startswith(("| tool", "| ---")):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows.setdefault(cells[0], []).append(cells)
    return rows


def test_the_page_is_what_the_files_say(evidence):
    assert (ROOT / "EVIDENCE.md").read_text() == evidence.page(ROOT), "run `make evidence`"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_claim_and_case_is_on_it(tool):
    text = (ROOT / "EVIDENCE.md").read_text()
    claims, cases = rows_of(text, "Claims")[tool], rows_of(text, "Benchmarks")[tool]
    made = json.loads((ROOT / "tools" / tool / "bench" / "claims.json").read_text())
    assert len(claims) == len(made) and len(cases) == len(
        json.loads((ROOT / "tools" / tool / "bench" / "results.json").read_text())
    )
    for cells, claim in zip(claims, made, strict=True):
        assert cells[4].strip("*").replace(" ", "_") == claim["supported"]
        if claim["value"] is not None:
            shown = float(re.match(r"[-+.e0-9,]+", cells[3]).group().rstrip(",").replace(",", ""))
            assert shown == pytest.approx(claim["value"], rel=6e-4)
    failed = list(rows_of(text, "What did not hold, or was not shown").get(tool, []))
    assert len(failed) == sum(claim["supported"] in ("no", "not_shown") for claim in made)
    assert rows_of(text, "Not yet measured, and why")[tool][0][1]


def test_another_result_makes_another_page_and_an_unknown_verdict_none(evidence, tmp_path):
    for tool in TOOLS:
        for name in ("pyproject.toml", "demo.json", "bench/claims.json", "bench/results.json"):
            (tmp_path / "tools" / tool / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "tools" / tool / name, tmp_path / "tools" / tool / name)
    (tmp_path / "kernels" / "results").mkdir(parents=True)
    row = {"kernel": "k", "case": "a|b", "max_rel_err": 1e-3, "ms": 0.5, "bytes_s": 1e12, "flop_s": None}
    row |= {"floor_ratio": 1.25, "baseline": "torch", "baseline_ratio": 2.0, "ok": False}
    (tmp_path / "kernels" / "results" / "card.json").write_text(json.dumps({"gpu": "card", "rows": [row]}))
    text = evidence.page(tmp_path)
    assert "| card | k | a\\|b | 0.5 | 1.25 | torch | 2 | 0.001 | **no** |" in text
    file = tmp_path / "tools" / "antkv" / "bench" / "claims.json"
    claims = json.loads(file.read_text())
    claims[0] |= {"value": 123456.0, "supported": "no"}
    file.write_text(json.dumps(claims))
    assert len(rows_of(evidence.page(tmp_path), "What did not hold, or was not shown")["antkv"]) == 1 + sum(
        claim["supported"] == "not_shown" for claim in claims
    )
    assert "123,456" in evidence.page(tmp_path)
    claims[0]["supported"] = "perhaps"
    file.write_text(json.dumps(claims))
    with pytest.raises(ValueError, match=r"antkv: claim .*perhaps"):
        evidence.page(tmp_path)
